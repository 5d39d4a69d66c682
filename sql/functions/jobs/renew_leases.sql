-- Extends the leases of runs that go on. p_lost comes back with the jobs whose current run this no longer is: their
-- handlers should be stopped, and whatever they report will be refused. A job that somebody else holds just now is passed
-- over: it is not renewed, nor is it lost.
-- Locks: open_jobs by id.
create procedure relayforge.renew_leases(
  p_job_ids uuid[],
  p_run_ids uuid[],
  p_lease interval,
  inout p_lost uuid[] default null,
  p_now timestamptz default clock_timestamp()
)
language plpgsql security definer
set search_path = store, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_busy uuid[];
begin
  v_busy := relayforge.lock_runs(p_job_ids, p_run_ids);

  update open_jobs o
     set lease_until = p_now + p_lease
   where o.job_id = any (p_job_ids) and o.run_id = any (p_run_ids) and o.job_id <> all (v_busy);

  select coalesce(array_agg(i.job_id), '{}') into p_lost
    from unnest(p_job_ids, p_run_ids) i(job_id, run_id)
    left join lateral (
      select o.job_id from open_jobs o where o.job_id = i.job_id and o.run_id = i.run_id offset 0
    ) o on true
   where o.job_id is null;
end $$;
comment on procedure relayforge.renew_leases is 'Extends the leases of runs that go on; returns the jobs that were lost.';
grant execute on procedure relayforge.renew_leases to relayforge_consumer;
