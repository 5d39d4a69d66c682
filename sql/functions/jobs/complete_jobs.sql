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
  v_sorted uuid[];
begin
  p_busy := relayforge.lock_runs(p_job_ids, p_run_ids);

  -- The partitions of jobs between the first and the last are all that is looked into.
  select array_agg(i.job_id order by i.job_id) into v_sorted from unnest(p_job_ids) i(job_id);
  with ended as (
    delete from open_jobs o
     where o.job_id = any (p_job_ids) and o.run_id = any (p_run_ids) and o.job_id <> all (p_busy)
    returning o.job_id, o.attempt, o.started_at
  ), written as (
    update jobs j
       set outcome = 'succeeded', attempts = e.attempt, started_at = e.started_at, finished_at = p_now
      from ended e
     where j.id = e.job_id and j.id >= v_sorted[1] and j.id <= v_sorted[cardinality(v_sorted)]
    returning j.id
  )
  select coalesce(array_agg(w.id), '{}') into p_completed from written w;
end $$;
comment on procedure relayforge.complete_jobs is 'Ends runs that succeeded; returns the jobs whose current run it was, and those that somebody else holds: ask again.';
grant execute on procedure relayforge.complete_jobs to relayforge_consumer;
