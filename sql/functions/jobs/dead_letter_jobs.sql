-- Gives up open jobs, whose rows in open_jobs the caller has locked by id. The broker's dead-letter queue gets a copy
-- through the outbox; the row in dead_jobs is the truth. Not granted to anybody.
create function relayforge.dead_letter_jobs(p_job_ids uuid[], p_causes text[], p_errors text[], p_now timestamptz)
returns void
language plpgsql
set search_path = store, pg_temp
set enable_seqscan = off
as $$
begin
  with ended as (
    delete from open_jobs o
     where o.job_id = any (p_job_ids)
    -- An attempt that has not begun is no run.
    returning o.job_id, (o.attempt - case when o.run_id is null then 1 else 0 end)::smallint as attempts, o.started_at,
              p_causes[array_position(p_job_ids, o.job_id)] as cause,
              left(p_errors[array_position(p_job_ids, o.job_id)], 2000) as error
  ), written as (
    update jobs j
       set outcome = 'dead_lettered', attempts = e.attempts, started_at = e.started_at, finished_at = p_now,
           last_error = e.error
      from ended e
     where j.id = e.job_id
    returning j.id, j.event_id, j.tenant_id, j.source, j.attempts, e.cause, e.error
  ), dead as (
    insert into dead_jobs (job_id, tenant_id, source, cause, dead_at)
    select w.id, w.tenant_id, w.source, w.cause, p_now from written w
  ), logged as (
    insert into job_log (id, job_id, what, attempt, detail)
    select relayforge.uuid7(p_now, 1), w.id, 'dead', w.attempts, w.cause || ': ' || w.error from written w
  )
  insert into outbox_messages (id, target, job_id, event_id, attempt, next_attempt_at)
  select relayforge.uuid7(p_now, 1), 'dlq', w.id, w.event_id, w.attempts, p_now from written w;
end $$;
comment on function relayforge.dead_letter_jobs is 'Gives up open jobs that the caller has locked: outcome, dead_jobs, log, and a copy for the dead-letter queue.';
