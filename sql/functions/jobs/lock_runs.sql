-- Locks the open jobs among p_job_ids, by id, and returns those that somebody else holds: an operator's open transaction,
-- for example. They are not waited for, because everybody else's outcomes and leases would wait too. With p_run_ids
-- only jobs whose current run is among them: a run's id is one job's alone, so nobody looks which stands beside which. Not
-- granted to anybody.
--
-- This and all that find open jobs or outbox rows by a list of keys say "key = any (array)" or look each up in a lateral
-- subquery. A join could be planned the other way round, all of the table against the list: that is cheapest where the plan is
-- made while the table is empty, as it is between two bursts, and ruinous in the next one, with the plan still cached.
create function relayforge.lock_runs(p_job_ids uuid[], p_run_ids uuid[] default null)
returns uuid[]
language plpgsql
set search_path = store, pg_temp
as $$
declare
  v_locked uuid[];
begin
  select coalesce(array_agg(q.job_id), '{}') into v_locked
    from (
      select o.job_id
        from open_jobs o
       where o.job_id = any (p_job_ids) and (p_run_ids is null or o.run_id = any (p_run_ids))
       order by o.job_id
         for no key update skip locked
    ) q;
  -- Nearly always all.
  if cardinality(v_locked) = cardinality(p_job_ids) then
    return '{}';
  end if;
  return (
    select coalesce(array_agg(o.job_id), '{}')
      from open_jobs o
     where o.job_id = any (p_job_ids) and (p_run_ids is null or o.run_id = any (p_run_ids))
       and o.job_id <> all (v_locked));
end $$;
comment on function relayforge.lock_runs is 'Locks open jobs by id and returns those that somebody else holds, which are not waited for.';
