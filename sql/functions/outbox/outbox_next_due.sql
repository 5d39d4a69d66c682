-- When the next message of any target falls due; null when there is none. Four index probes.
create function relayforge.outbox_next_due(p_from_at timestamptz default '-infinity')
returns timestamptz
language plpgsql stable security definer
set search_path = store, pg_temp
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
begin
  return (
    select min(n.at)
      from unnest(array['jobs', 'retries', 'events', 'dlq']) t(target)
     cross join lateral (
       select o.next_attempt_at as at
         from outbox_messages o
        where o.target = t.target and o.next_attempt_at >= p_from_at
        order by o.next_attempt_at
        limit 1
     ) n);
end $$;
comment on function relayforge.outbox_next_due is 'When the next message falls due; null when none waits.';
grant execute on function relayforge.outbox_next_due to relayforge_relay;
