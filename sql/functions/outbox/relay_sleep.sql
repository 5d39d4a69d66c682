-- Says that a relay has found nothing and will look again at p_wakes_at. The caller commits it, claims once more, and
-- only then waits: whoever commits a message after that claim sees this row and notifies.
create function relayforge.relay_sleep(p_relay_id uuid, p_wakes_at timestamptz)
returns void
language plpgsql security definer
set search_path = store, pg_temp
as $$
begin
  insert into relay_sleepers (relay_id, wakes_at) values (p_relay_id, p_wakes_at)
  on conflict (relay_id) do update set wakes_at = excluded.wakes_at;
end $$;
comment on function relayforge.relay_sleep is 'Says that a relay will sleep until the given time unless it is woken.';
grant execute on function relayforge.relay_sleep to relayforge_relay;
