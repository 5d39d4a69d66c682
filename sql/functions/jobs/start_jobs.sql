-- Starts runs: for each (job, attempt) that a message asks for, a row in the same order with one of the outcomes
--   started    the caller holds the lease and run_id; the event's columns are filled
--   busy       a run holds the lease (also when it has run out: only the sweeper takes a job over)
--   stale      the message is of another attempt
--   held       an operator holds the job (one that the quota holds has no message before its time)
--   final      the job has its outcome
--   poisoned   p_max_starts runs in a row ended without an outcome; the job has just been dead-lettered
--   unknown    there is no such job
--   locked     somebody else holds the job just now: ask again
-- p_max_starts stays with the job, for whoever sweeps. Locks: open_jobs by id.
create function relayforge.start_jobs(
  p_job_ids uuid[],
  p_attempts integer[],
  p_lease interval,
  p_max_starts integer,
  p_now timestamptz default clock_timestamp()
)
returns table (
  outcome text, run_id uuid, tenant_id uuid, tenant_slug text, source text, source_kind text, job_kind text,
  event_id uuid, event_type text, provider_event_id text, correlation_id text, headers jsonb, body bytea, trace_context jsonb
)
language plpgsql security definer
set search_path = store, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  v_stamp constant text := relayforge.uuid7_stamp(p_now);
  v_seed constant bigint := relayforge.uuid7_seed();
  v_outcomes text[];
  v_run_ids uuid[];
  v_poisoned uuid[];
  v_locked uuid[];
  v_started uuid[];
  v_first uuid;
  v_last uuid;
begin
  v_locked := relayforge.lock_runs(p_job_ids);

  select array_agg(q.outcome), array_agg(case when q.outcome = 'started'
                        then relayforge.uuid7_of(v_stamp, q.ord, relayforge.uuid7_tail(v_seed, q.ord)) end),
         array_agg(q.job_id) filter (where q.outcome = 'poisoned')
    into v_outcomes, v_run_ids, v_poisoned
    from (
      select i.job_id, i.ord::integer as ord,
             case
               when o.job_id = any (v_locked) then 'locked'
               when o.job_id is null then
                 case when exists (select 1 from jobs j where j.id = i.job_id) then 'final' else 'unknown' end
               when o.state = 'held' and o.due_at = 'infinity' then 'held'
               when o.attempt <> i.attempt then 'stale'
               when o.state = 'processing' then 'busy'
               when o.starts >= p_max_starts then case when i.nth = 1 then 'poisoned' else 'final' end
               when i.nth > 1 then 'busy'
               else 'started'
             end as outcome
        from (
          select a.job_id, a.attempt, a.ord, row_number() over (partition by a.job_id, a.attempt order by a.ord) as nth
            from unnest(p_job_ids, p_attempts) with ordinality as a(job_id, attempt, ord)
        ) i
        left join open_jobs o on o.job_id = i.job_id
       order by i.ord
    ) q;

  if v_poisoned is not null then
    perform relayforge.dead_letter_jobs(
      v_poisoned,
      array_fill('poison'::text, array[cardinality(v_poisoned)]),
      array_fill(format('%s runs in a row ended without an outcome', p_max_starts), array[cardinality(v_poisoned)]),
      p_now);
  end if;

  -- One that was opened again just now, after the lock, may be somebody else's: it is looked at once more.
  with started as (
    update open_jobs o
     set state = 'processing', run_id = i.run_id, lease_until = p_now + p_lease, started_at = p_now, starts = o.starts + 1,
         max_starts = least(p_max_starts, 32000)
    from unnest(p_job_ids, v_run_ids) i(job_id, run_id)
   where o.job_id = i.job_id and i.run_id is not null and o.state <> 'processing'
    returning o.job_id
  )
  select coalesce(array_agg(s.job_id), '{}') into v_started from started s;

  -- The partitions of jobs between the first and the last are all that is opened.
  select i.job_id into v_first from unnest(v_started) i(job_id) order by i.job_id limit 1;
  select i.job_id into v_last from unnest(v_started) i(job_id) order by i.job_id desc limit 1;
  return query
  select case when i.outcome = 'started' and i.run_id is null then 'locked' else i.outcome end, i.run_id, j.tenant_id, t.slug, j.source, s.kind, j.kind,
         j.event_id, j.event_type, e.provider_event_id, j.correlation_id, e.headers, e.body, e.trace_context
    from (
      select u.job_id, u.outcome, case when u.job_id = any (v_started) then u.run_id end as run_id, u.ord
        from unnest(p_job_ids, v_outcomes, v_run_ids) with ordinality as u(job_id, outcome, run_id, ord)
    ) i
    left join jobs j on j.id = i.job_id and i.run_id is not null and j.id >= v_first and j.id <= v_last
    left join webhook_inbox e on e.id = j.event_id
    left join tenants t on t.id = j.tenant_id
    left join sources s on s.name = j.source
   order by i.ord;
end $$;
comment on function relayforge.start_jobs is 'Starts the runs that messages ask for; answers each with its outcome and, where started, the run id and the event.';
grant execute on function relayforge.start_jobs to relayforge_consumer;
