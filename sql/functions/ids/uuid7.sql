-- A UUIDv7 (RFC 9562, 5.7) for a time of the database's clock: 48 bits of Unix milliseconds, 12 bits of the caller's
-- sequence (its method 1: a counter in rand_a), so that ids of one batch sort as they arrived, and 62 random bits.
create function relayforge.uuid7(p_at timestamptz, p_seq integer)
returns uuid
language sql volatile parallel safe
as $$
  select (
    lpad(to_hex(floor(extract(epoch from p_at) * 1000)::bigint), 12, '0')
    || to_hex(28672 + (p_seq & 4095))
    || substr(gen_random_uuid()::text, 20)
  )::uuid
$$;
comment on function relayforge.uuid7 is 'A UUIDv7 of the given time; the sequence (its low 12 bits count) orders ids of one millisecond.';
