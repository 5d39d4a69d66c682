-- What the verbs on jobs have in common at their end: a row of the audit log for the call, a row of the job log for each
-- job that it changed. RF400: more than 1,000 jobs, or none; no reason. Not granted to anybody.
create function relayforge.audit_jobs(
  p_actor text,
  p_action text,
  p_reason text,
  p_job_ids uuid[],
  p_outcomes text[],
  p_what text,
  p_attempts smallint[],
  p_now timestamptz
)
returns void
language plpgsql
set search_path = store, pg_temp
as $$
begin
  if coalesce(cardinality(p_job_ids), 0) not between 1 and 1000 then
    raise exception 'one call takes 1 to 1,000 jobs, not %', coalesce(cardinality(p_job_ids), 0) using errcode = 'RF400';
  end if;
  perform relayforge.write_audit(
    p_actor, p_action,
    case when cardinality(p_job_ids) = 1 then 'job/' || p_job_ids[1] else 'jobs' end,
    p_reason,
    (select jsonb_object_agg(i.job_id, i.outcome) from unnest(p_job_ids, p_outcomes) i(job_id, outcome)));
  insert into job_log (id, job_id, what, attempt, detail)
  select relayforge.uuid7(p_now, 0), i.job_id, p_what, i.attempt, left(trim(p_actor) || ': ' || trim(p_reason), 2000)
    from unnest(p_job_ids, p_outcomes, p_attempts) i(job_id, outcome, attempt)
   where i.outcome = p_what;
end $$;
comment on function relayforge.audit_jobs is 'Writes the audit row of a verb on jobs, and a job log row for each job that it changed.';
