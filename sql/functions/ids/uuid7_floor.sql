-- The smallest id of a millisecond: what partition bounds and windows are compared with.
create function relayforge.uuid7_floor(p_at timestamptz)
returns uuid
language sql immutable strict parallel safe
as $$
  select rpad(lpad(to_hex(floor(extract(epoch from p_at) * 1000)::bigint), 12, '0'), 32, '0')::uuid
$$;
comment on function relayforge.uuid7_floor is 'The smallest UUIDv7 of the given time''s millisecond: narrows by time what has an id (job_id >= relayforge.uuid7_floor(now() - interval ''1 hour'')).';
grant execute on function relayforge.uuid7_floor to relayforge_dba;
