-- Ends the claim of a batch, in the claiming transaction: what the broker has confirmed leaves the queue, the rest is
-- put off with its error. What the broker has refused waits about as long as it has been refused for, from p_backoff_base to
-- p_backoff_cap; where p_blameless says that the connection was lost or stalled, it waits p_backoff_base at most: the relay
-- paces itself by its connection then, and the message is as good as any other.
-- Locks: none that claim_outbox has not taken.
create function relayforge.settle_outbox(
  p_confirmed uuid[],
  p_deferred uuid[],
  p_errors text[],
  p_backoff_base interval,
  p_backoff_cap interval,
  p_now timestamptz default clock_timestamp(),
  p_blameless boolean[] default null
)
returns void
language plpgsql security definer
set search_path = store, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_stamp constant text := relayforge.uuid7_stamp(p_now);
  v_seed constant bigint := relayforge.uuid7_seed();
begin
  with gone as (
    delete from outbox_messages o
     where o.id = any (p_confirmed)
    returning o.id, o.target, o.job_id, o.attempt
  )
  insert into job_log (id, job_id, what, attempt)
  select relayforge.uuid7_of(v_stamp, 0, relayforge.uuid7_tail_of(v_seed, g.id)), g.job_id, 'published', g.attempt
    from gone g
   where g.target in ('jobs', 'retries');

  update outbox_messages o
     set attempts = o.attempts + 1,
         last_error = left(p_errors[array_position(p_deferred, o.id)], 2000),
         refused_since = case when p_blameless[array_position(p_deferred, o.id)] then o.refused_since
                              else coalesce(o.refused_since, p_now) end,
         next_attempt_at = p_now + relayforge.backoff(
           case when p_blameless[array_position(p_deferred, o.id)] then p_backoff_base
                else greatest(p_backoff_base, p_now - o.refused_since) end, p_backoff_cap, 1)
   where o.id = any (p_deferred);
end $$;
comment on function relayforge.settle_outbox is 'Removes what the broker has confirmed and puts off the rest with its error.';
grant execute on function relayforge.settle_outbox to relayforge_relay;
