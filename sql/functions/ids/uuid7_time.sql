-- The time in a UUIDv7, to the millisecond.
create function relayforge.uuid7_time(p_id uuid)
returns timestamptz
language sql immutable strict parallel safe
as $$
  select to_timestamp(('x' || translate(left(p_id::text, 13), '-', ''))::bit(48)::bigint / 1000.0)
$$;
comment on function relayforge.uuid7_time is 'The time in a UUIDv7, to the millisecond: when the job was made, the delivery received, the row written.';
grant execute on function relayforge.uuid7_time to relayforge_dba;
