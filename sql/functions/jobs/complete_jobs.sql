-- Ends runs that succeeded. p_completed comes back with the jobs whose current run this was; a run that has lost its
-- job to the sweeper, an operator or its own twin is not in it and changes nothing. p_busy has the jobs that somebody else
-- holds just now: nothing was written for them; ask again.
-- Locks: open_jobs by id, then their rows in jobs.
create procedure relayforge.complete_jobs(
  p_job_ids uuid[],
  p_run_ids uuid[],
  inout p_completed uuid[] default null,
  p_now timestamptz default clock_timestamp(),
  inout p_busy uuid[] default null
)
language plpgsql security definer
set search_path = store, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_attempts smallint[];
  v_started timestamptz[];
begin
  p_busy := relayforge.lock_runs(p_job_ids, p_run_ids);

  -- By id, so that a job's place is found by halves.
  with ended as (
    delete from open_jobs o
     where o.job_id = any (p_job_ids) and o.run_id = any (p_run_ids) and o.job_id <> all (p_busy)
    returning o.job_id, o.attempt, o.started_at
  )
  select coalesce(array_agg(e.job_id order by e.job_id), '{}'), array_agg(e.attempt order by e.job_id),
         array_agg(e.started_at order by e.job_id)
    into p_completed, v_attempts, v_started
    from ended e;
  -- The partitions of jobs between the first and the last are all that is looked into.
  update jobs j
     set outcome = 'succeeded', attempts = v_attempts[width_bucket(j.id, p_completed)],
         started_at = v_started[width_bucket(j.id, p_completed)], finished_at = p_now
   where j.id = any (p_completed) and j.id >= p_completed[1] and j.id <= p_completed[cardinality(p_completed)];
end $$;
comment on procedure relayforge.complete_jobs is 'Ends runs that succeeded; returns the jobs whose current run it was, and those that somebody else holds: ask again.';
grant execute on procedure relayforge.complete_jobs to relayforge_consumer;
