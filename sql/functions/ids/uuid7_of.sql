-- A UUIDv7 (RFC 9562, 5.7): 48 bits of Unix milliseconds (uuid7_stamp), 12 bits of the caller's sequence (its method 1: a
-- counter in rand_a), so that ids of one batch sort as they arrived, and 62 random bits: the last 17 characters of a random
-- UUID's text, or others of it in their form. Inlined into its callers.
create function relayforge.uuid7_of(p_stamp text, p_seq integer, p_random text default substr(gen_random_uuid()::text, 20))
returns uuid
language sql volatile parallel safe
as $$
  select (p_stamp || to_hex(28672 + (p_seq & 4095)) || p_random)::uuid
$$;
comment on function relayforge.uuid7_of is 'A UUIDv7 of a stamp (uuid7_stamp); the sequence (its low 12 bits count) orders ids of one millisecond.';
