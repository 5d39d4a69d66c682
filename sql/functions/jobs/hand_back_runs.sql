-- Hands back runs that a consumer will not finish, because it was told to end: they are put in the outbox again at once, not
-- when their lease has run out. p_handed_back comes back with the jobs whose current run this was. One that somebody else
-- holds just now, and one that has used up the numbers of its attempts, is left to the sweeper.
-- Locks: open_jobs by id.
create procedure relayforge.hand_back_runs(
  p_job_ids uuid[],
  p_run_ids uuid[],
  inout p_handed_back uuid[] default null,
  p_now timestamptz default clock_timestamp()
)
language plpgsql security definer
set search_path = store, pg_temp
set enable_seqscan = off
as $$
declare
  c_last_attempt constant smallint := 32000;
  v_busy uuid[];
begin
  v_busy := relayforge.lock_runs(p_job_ids, p_run_ids);
  select coalesce(array_agg(o.job_id), '{}') into p_handed_back
    from open_jobs o
   where o.job_id = any (p_job_ids) and o.run_id = any (p_run_ids) and o.job_id <> all (v_busy) and o.attempt < c_last_attempt;
  perform relayforge.requeue_runs(p_handed_back, 'run %s was handed back: its consumer was told to end', true, p_now);
end $$;
comment on procedure relayforge.hand_back_runs is 'Hands back runs that a consumer will not finish: their jobs are in the outbox again at once. Returns the jobs whose current run it was.';
grant execute on procedure relayforge.hand_back_runs to relayforge_consumer;
