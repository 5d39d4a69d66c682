-- Ends the claim of a batch, in the claiming transaction: what the broker has confirmed leaves the queue, the rest is
-- put off with its error, under a back-off that doubles from p_backoff_base to p_backoff_cap.
-- Locks: none that claim_outbox has not taken.
create function relayforge.settle_outbox(
  p_confirmed uuid[],
  p_deferred uuid[],
  p_errors text[],
  p_backoff_base interval,
  p_backoff_cap interval,
  p_now timestamptz default clock_timestamp()
)
returns void
language plpgsql security definer
set search_path = store, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
begin
  with gone as (
    delete from outbox_messages o
     where o.id = any (p_confirmed)
    returning o.target, o.job_id, o.attempt
  )
  insert into job_log (id, job_id, what, attempt)
  select relayforge.uuid7(p_now, 0), g.job_id, 'published', g.attempt from gone g where g.target = 'jobs';

  update outbox_messages o
     set attempts = o.attempts + 1,
         last_error = left(d.error, 2000),
         next_attempt_at = p_now + relayforge.backoff(p_backoff_base, p_backoff_cap, o.attempts + 1)
    from unnest(p_deferred, p_errors) d(id, error)
   where o.id = d.id;
end $$;
comment on function relayforge.settle_outbox is 'Removes what the broker has confirmed and puts off the rest with its error.';
grant execute on function relayforge.settle_outbox to relayforge_relay;
