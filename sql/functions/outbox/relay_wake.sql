-- Takes back relay_sleep: the relay is awake by itself, nobody need notify it.
create function relayforge.relay_wake(p_relay_id uuid)
returns void
language sql security definer
set search_path = store, pg_temp
as $$
  delete from relay_sleepers where relay_id = p_relay_id
$$;
comment on function relayforge.relay_wake is 'Takes back relay_sleep.';
grant execute on function relayforge.relay_wake to relayforge_relay;
