-- Puts jobs whose run ended without an outcome in the outbox again, as their next attempt; the caller has locked their
-- rows in open_jobs by id. A lost run is no failure: it takes nothing from the budget of attempts. p_blameless says that
-- the run was no sign of poison either. The first time a job is due at once; if its runs keep ending like that it waits for
-- up to 20 s, at random, because one of those that end together may be what ends the others. p_why is the log's detail, with
-- %s for the run. Not granted to anybody.
create function relayforge.requeue_runs(p_job_ids uuid[], p_why text, p_blameless boolean, p_now timestamptz)
returns void
language plpgsql
set search_path = store, pg_temp
set enable_seqscan = off
as $$
begin
  insert into job_log (id, job_id, what, attempt, detail)
  select relayforge.uuid7(p_now, 0), o.job_id, 'rescued', o.attempt, format(p_why, o.run_id)
    from open_jobs o
   where o.job_id = any (p_job_ids);
  with requeued as (
    update open_jobs o
       set state = 'retrying', attempt = o.attempt + 1, attempt_base = o.attempt_base + 1,
           starts = case when p_blameless then greatest(o.starts - 1, 0) else o.starts end,
           run_id = null, lease_until = null,
           due_at = p_now + case when p_blameless or o.starts < 2 then '0' else relayforge.backoff('5 s', '20 s', o.starts - 1, 1) end
     where o.job_id = any (p_job_ids)
    returning o.job_id, o.attempt, o.due_at
  )
  -- Among fresh work, if at once: nothing was wrong with these, and they have waited for a lease already.
  insert into outbox_messages (id, target, job_id, event_id, attempt, next_attempt_at)
  select relayforge.uuid7(p_now, 0), case when r.due_at > p_now then 'retries' else 'jobs' end,
         r.job_id, j.event_id, r.attempt, r.due_at
    from requeued r
    join jobs j on j.id = r.job_id;
end $$;
comment on function relayforge.requeue_runs is 'Puts jobs whose run ended without an outcome in the outbox again, as their next attempt.';
