-- Lets held jobs go, at once: those that an operator holds, and those that the quota holds until midnight. The message
-- that was refused while a job was held is gone from the broker, so a new one is written; should both exist, the second
-- finds the job started. One row comes back for each:
--   released    its message is in the outbox
--   not_held    it is open and not held
--   final       it has its outcome already
--   unknown     there is no such job
-- RF400: no reason, or not 1 to 1,000 jobs. Locks: open_jobs by id, then the outbox.
create function relayforge.release_jobs(
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

  with released as (
    update open_jobs o
       set state = case when o.started_at is null then 'queued' else 'retrying' end, due_at = p_now
     where o.job_id = any (p_job_ids) and o.state = 'held'
    returning o.job_id, o.attempt
  ), sent as (
    insert into outbox_messages (id, target, job_id, event_id, attempt, next_attempt_at)
    select relayforge.uuid7(p_now, 0), 'retries', r.job_id, j.event_id, r.attempt, p_now
      from released r
      join jobs j on j.id = r.job_id
  )
  select array_agg(i.job_id order by i.job_id), array_agg(coalesce(r.attempt, 0::smallint) order by i.job_id),
         array_agg(case
                     when r.job_id is not null then 'released'
                     when o.job_id is not null then 'not_held'
                     when j.id is not null then 'final'
                     else 'unknown'
                   end order by i.job_id)
    into v_job_ids, v_attempts, v_outcomes
    from (select distinct u.job_id from unnest(p_job_ids) u(job_id)) i
    left join released r on r.job_id = i.job_id
    left join lateral (select o.job_id, o.state, o.attempt from open_jobs o where o.job_id = i.job_id offset 0) o on true
    left join jobs j on j.id = i.job_id;

  perform relayforge.audit_jobs(p_actor, 'release_jobs', p_reason, v_job_ids, v_outcomes, 'released', v_attempts, p_now);
  return query select i.job_id, i.outcome from unnest(v_job_ids, v_outcomes) i(job_id, outcome);
end $$;
comment on function relayforge.release_jobs is 'Lets held jobs go at once, 1 to 1,000 a call, and answers each: released, not_held, final (it has its outcome) or unknown. Audited, with the reason.';
grant execute on function relayforge.release_jobs to relayforge_dba;
