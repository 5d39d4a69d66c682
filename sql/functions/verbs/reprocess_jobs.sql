-- Opens jobs again that were dead-lettered or cancelled, with a fresh budget of attempts; their numbers run on. One row
-- comes back for each:
--   reprocessed  it is queued
--   open         it has no outcome yet: nothing to do
--   succeeded    it is done; running it again would do its work twice
--   no_event     its event was erased, or is past its retention
--   worn_out     it has had 32,000 attempts
--   unknown      there is no such job
-- RF400: no reason, or not 1 to 1,000 jobs. Locks: jobs by id, then the outbox. Only those that have their outcome:
-- an open one is locked by whoever ends it, through its row in open_jobs, and in another order.
create function relayforge.reprocess_jobs(
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
  c_last_attempt constant smallint := 32000;
  v_locked uuid[];
  v_job_ids uuid[];
  v_outcomes text[];
  v_attempts smallint[];
begin
  select array_agg(q.id) into v_locked
    from (
      select j.id from jobs j where j.id = any (p_job_ids) and j.outcome is not null order by j.id for no key update
    ) q;

  select array_agg(q.job_id), array_agg(q.outcome), array_agg(q.attempts)
    into v_job_ids, v_outcomes, v_attempts
    from (
      select i.job_id, coalesce(j.attempts, 0::smallint) as attempts,
             case
               when j.id is null then 'unknown'
               when j.outcome is null or j.id <> all (coalesce(v_locked, '{}')) then 'open'
               when j.outcome = 'succeeded' then 'succeeded'
               when e.id is null or e.erased_at is not null then 'no_event'
               when j.attempts >= c_last_attempt then 'worn_out'
               else 'reprocessed'
             end as outcome
        from (select distinct u.job_id from unnest(p_job_ids) u(job_id)) i
        left join jobs j on j.id = i.job_id
        left join webhook_inbox e on e.id = j.event_id
       order by i.job_id
    ) q;

  with opened as (
    update jobs j
       set outcome = null, attempts = null, finished_at = null
      from unnest(v_job_ids, v_outcomes, v_attempts) i(job_id, outcome, attempts)
     where j.id = i.job_id and i.outcome = 'reprocessed'
    returning j.id, j.tenant_id, j.event_id, i.attempts, j.started_at
  ), queued as (
    insert into open_jobs (job_id, tenant_id, state, attempt, attempt_base, started_at, due_at)
    select o.id, o.tenant_id, 'queued', o.attempts + 1, o.attempts, o.started_at, p_now from opened o
  ), revived as (
    delete from dead_jobs d using opened o where d.job_id = o.id
  )
  insert into outbox_messages (id, target, job_id, event_id, attempt, next_attempt_at)
  select relayforge.uuid7(p_now, 0), 'retries', o.id, o.event_id, o.attempts + 1, p_now from opened o;

  perform relayforge.audit_jobs(p_actor, 'reprocess_jobs', p_reason, v_job_ids, v_outcomes, 'reprocessed', v_attempts, p_now);
  return query select i.job_id, i.outcome from unnest(v_job_ids, v_outcomes) i(job_id, outcome);
end $$;
comment on function relayforge.reprocess_jobs is 'Opens dead-lettered and cancelled jobs again with a fresh budget of attempts, 1 to 1,000 a call, and answers each: reprocessed, open, succeeded, no_event (erased, or past its retention), worn_out (32,000 attempts) or unknown. Audited, with the reason.';
grant execute on function relayforge.reprocess_jobs to relayforge_dba;
