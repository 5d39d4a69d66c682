-- Ends runs that failed, and decides what becomes of each job: with p_retryable and attempts left it is retried after
-- a back-off (or after p_retry_after_seconds, if the handler asked for longer), as a new outbox row with its due time;
-- else it is dead-lettered. How many attempts there are and how long the back-off is, store.retry_policies says: field by
-- field, the narrowest row that has one; p_max_attempts, p_backoff_base and p_backoff_cap stand in where none has. p_failed comes back with the jobs whose current run this was, p_outcomes beside it with
-- retrying or dead_lettered, p_next_due with when the first retry is due (for wake_relays),
-- p_busy with the jobs that somebody else holds just now: nothing was written for them; ask again.
-- Locks: open_jobs by id, then their rows in jobs.
create procedure relayforge.fail_jobs(
  p_job_ids uuid[],
  p_run_ids uuid[],
  p_errors text[],
  p_retryable boolean[],
  p_retry_after_seconds double precision[],
  p_max_attempts integer,
  p_backoff_base interval,
  p_backoff_cap interval,
  inout p_failed uuid[] default null,
  inout p_outcomes text[] default null,
  inout p_next_due timestamptz default null,
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
  -- The number of an attempt is a smallint: a job that is rescued for ever ends here.
  c_last_attempt constant smallint := 32000;
  v_errors text[];
  v_attempts smallint[];
  v_dues timestamptz[];
  v_causes text[];
begin
  p_busy := relayforge.lock_runs(p_job_ids, p_run_ids);

  select coalesce(array_agg(q.job_id), '{}'), array_agg(q.error), array_agg(q.attempt), array_agg(q.cause),
         coalesce(array_agg(case when q.cause is null then 'retrying' else 'dead_lettered' end), '{}'),
         array_agg(case when q.cause is null then p_now + greatest(
           make_interval(secs => q.retry_after_seconds),
           relayforge.backoff(q.backoff_base, q.backoff_cap, q.attempt - q.attempt_base, q.jitter)) end)
    into p_failed, v_errors, v_attempts, v_causes, p_outcomes, v_dues
    from (
      -- A run that stands twice in the arrays has failed once: the first counts.
      select distinct on (o.job_id)
             o.job_id, o.attempt, o.attempt_base, left(i.error, 2000) as error, i.retry_after_seconds,
             p.backoff_base, p.backoff_cap, p.jitter,
             case
               when not i.retryable then 'permanent'
               when o.attempt - o.attempt_base >= p.max_attempts or o.attempt >= c_last_attempt then 'exhausted'
             end as cause
        from unnest(p_job_ids, p_run_ids, p_errors, p_retryable, p_retry_after_seconds)
               with ordinality as i(job_id, run_id, error, retryable, retry_after_seconds, ord)
       cross join lateral (
         select o.job_id, o.tenant_id, o.attempt, o.attempt_base
           from open_jobs o
          where o.job_id = i.job_id and o.run_id = i.run_id and o.job_id <> all (p_busy)
         offset 0
       ) o
        join jobs j on j.id = o.job_id
       cross join lateral relayforge.retry_policy_of(o.tenant_id, j.source) r
       cross join lateral (
         select coalesce(r.max_attempts, p_max_attempts) as max_attempts,
                coalesce(r.backoff_base, p_backoff_base) as backoff_base,
                coalesce(r.backoff_cap, p_backoff_cap) as backoff_cap,
                coalesce(r.jitter, 0.5) as jitter
       ) p
       order by o.job_id, i.ord
    ) q;

  insert into job_log (id, job_id, what, attempt, detail)
  select relayforge.uuid7(p_now, 0), i.job_id, 'failed', i.attempt, i.error
    from unnest(p_failed, v_attempts, v_errors) i(job_id, attempt, error);

  update open_jobs o
     set state = 'retrying', attempt = o.attempt + 1, starts = 0, run_id = null, lease_until = null,
         due_at = v_dues[width_bucket(o.job_id, p_failed)]
   where o.job_id = any (p_failed) and v_dues[width_bucket(o.job_id, p_failed)] is not null;

  perform relayforge.dead_letter_jobs(array_agg(i.job_id), array_agg(i.cause), array_agg(i.error), p_now)
     from unnest(p_failed, v_causes, v_errors) i(job_id, cause, error)
    where i.cause is not null
   having count(*) > 0;

  insert into outbox_messages (id, target, job_id, event_id, attempt, next_attempt_at)
  select relayforge.uuid7(p_now, 0), 'retries', i.job_id, j.event_id, i.attempt + 1, i.due_at
    from unnest(p_failed, v_attempts, v_dues) i(job_id, attempt, due_at)
    join jobs j on j.id = i.job_id
   where i.due_at is not null;

  select min(d.at) into p_next_due from unnest(v_dues) d(at);
end $$;
comment on procedure relayforge.fail_jobs is 'Ends runs that failed: each job is retried after a back-off, or dead-lettered, as the retry policies say, or else the arguments.';
grant execute on procedure relayforge.fail_jobs to relayforge_consumer;
