-- Ends open jobs as cancelled, whatever they wait for. A run that is under way is not stopped by this, but fenced: its
-- consumer learns of it when it renews its lease, and what it reports is refused. One row comes back for each job:
--   cancelled   it was open
--   final       it has its outcome already
--   unknown     there is no such job
-- RF400: no reason, or not 1 to 1,000 jobs. Locks: open_jobs by id, then their rows in jobs.
create function relayforge.cancel_jobs(
  p_job_ids uuid[],
  p_reason text,
  p_actor text default session_user,
  p_now timestamptz default clock_timestamp()
)
returns table (job_id uuid, outcome text)
language plpgsql security definer
set search_path = store, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
  v_job_ids uuid[];
  v_outcomes text[];
  v_attempts smallint[];
begin
  perform 1 from open_jobs o where o.job_id = any (p_job_ids) order by o.job_id for no key update;

  with ended as (
    delete from open_jobs o
     where o.job_id = any (p_job_ids)
    -- An attempt that has not begun is no run.
    returning o.job_id, (o.attempt - case when o.run_id is null then 1 else 0 end)::smallint as attempts, o.started_at
  ), written as (
    update jobs j
       set outcome = 'cancelled', attempts = e.attempts, started_at = e.started_at, finished_at = p_now
      from ended e
     where j.id = e.job_id
    returning j.id, j.attempts
  )
  select array_agg(i.job_id order by i.job_id), array_agg(coalesce(w.attempts, 0::smallint) order by i.job_id),
         array_agg(case when w.id is not null then 'cancelled' when j.id is not null then 'final' else 'unknown' end order by i.job_id)
    into v_job_ids, v_attempts, v_outcomes
    from (select distinct u.job_id from unnest(p_job_ids) u(job_id)) i
    left join written w on w.id = i.job_id
    left join jobs j on j.id = i.job_id;

  perform relayforge.audit_jobs(p_actor, 'cancel_jobs', p_reason, v_job_ids, v_outcomes, 'cancelled', v_attempts, p_now);
  return query select i.job_id, i.outcome from unnest(v_job_ids, v_outcomes) i(job_id, outcome);
end $$;
comment on function relayforge.cancel_jobs is 'Ends open jobs as cancelled, 1 to 1,000 a call, and answers each: cancelled, final (it has its outcome) or unknown. A run that is under way is fenced, not stopped: what it reports is refused. Audited, with the reason.';
grant execute on function relayforge.cancel_jobs to relayforge_dba;
