-- Keeps jobs from being started until they are released. One row comes back for each:
--   held        it waits for release_jobs now (one that the quota held until midnight, too)
--   processing  a run is under way: it is not held; cancel it, or hold it when it has failed
--   final       it has its outcome already
--   unknown     there is no such job
-- RF400: no reason, or not 1 to 1,000 jobs. Locks: open_jobs by id.
create function relayforge.hold_jobs(
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

  update open_jobs o
     set state = 'held', due_at = 'infinity'
   where o.job_id = any (p_job_ids) and o.state <> 'processing';

  select array_agg(i.job_id order by i.job_id), array_agg(coalesce(o.attempt, 0::smallint) order by i.job_id),
         array_agg(case
                     when o.state is not null then o.state
                     when j.id is not null then 'final'
                     else 'unknown'
                   end order by i.job_id)
    into v_job_ids, v_attempts, v_outcomes
    from (select distinct u.job_id from unnest(p_job_ids) u(job_id)) i
    left join lateral (select o.job_id, o.state, o.attempt from open_jobs o where o.job_id = i.job_id offset 0) o on true
    left join jobs j on j.id = i.job_id;

  perform relayforge.audit_jobs(p_actor, 'hold_jobs', p_reason, v_job_ids, v_outcomes, 'held', v_attempts, p_now);
  return query select i.job_id, i.outcome from unnest(v_job_ids, v_outcomes) i(job_id, outcome);
end $$;
comment on function relayforge.hold_jobs is 'Keeps jobs from being started until release_jobs, 1 to 1,000 a call, and answers each: held, processing (a run is under way: not held), final (it has its outcome) or unknown. Audited, with the reason.';
grant execute on function relayforge.hold_jobs to relayforge_dba;
