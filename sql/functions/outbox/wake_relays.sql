-- Wakes the relays that would sleep past p_earliest_due; returns how many. Call it after the commit that wrote the
-- messages, in a transaction of its own: NOTIFY takes a database-wide lock at commit, and a flag read inside the
-- writing transaction misses relays that fall asleep before it commits.
create function relayforge.wake_relays(p_earliest_due timestamptz default clock_timestamp())
returns integer
language plpgsql security definer
set search_path = store, pg_temp
as $$
declare
  v_woken integer;
begin
  -- Usually nobody sleeps under load: an unlocked look is all it costs.
  if not exists (select 1 from relay_sleepers s where s.wakes_at > p_earliest_due) then
    return 0;
  end if;
  with asleep as (
    select s.relay_id from relay_sleepers s where s.wakes_at > p_earliest_due for update skip locked
  )
  delete from relay_sleepers s using asleep a where s.relay_id = a.relay_id;
  get diagnostics v_woken = row_count;
  if v_woken > 0 then
    perform pg_notify('relayforge_outbox', '');
  end if;
  return v_woken;
end $$;
comment on function relayforge.wake_relays is 'Wakes the relays that would sleep past the given time; call it after the commit that wrote the messages.';
grant execute on function relayforge.wake_relays to relayforge_api, relayforge_relay, relayforge_consumer, relayforge_dba;
