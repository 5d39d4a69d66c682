-- The time of a UUIDv7 as its first 12 hex digits: made once for the ids of a batch. Stable, though a time has one stamp,
-- because only then it is inlined: the extract in it is stable too.
create function relayforge.uuid7_stamp(p_at timestamptz)
returns text
language sql stable parallel safe
as $$
  select lpad(to_hex(floor(extract(epoch from p_at) * 1000)::bigint), 12, '0')
$$;
comment on function relayforge.uuid7_stamp is 'The first 12 hex digits of a UUIDv7 of the given time.';
