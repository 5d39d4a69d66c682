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
  v_starting uuid[];
  -- Sorted.
  v_started uuid[];
  v_events uuid[];
  -- One element per message; null where it started nothing.
  v_tenant_ids uuid[];
  v_sources text[];
  v_kinds text[];
  v_event_ids uuid[];
  v_event_types text[];
  v_correlation_ids text[];
  v_first uuid;
  v_last uuid;
begin
  v_locked := relayforge.lock_runs(p_job_ids);

  select array_agg(q.outcome), array_agg(case when q.outcome = 'started'
                        then relayforge.uuid7_of(v_stamp, 0, relayforge.uuid7_tail_of(v_seed, q.job_id)) end),
         array_agg(q.job_id) filter (where q.outcome = 'started'),
         array_agg(q.job_id) filter (where q.outcome = 'poisoned')
    into v_outcomes, v_run_ids, v_starting, v_poisoned
    from (
      select i.job_id, i.ord::integer as ord,
             case
               when o.job_id = any (v_locked) then 'locked'
               when o.job_id is null then 'unknown'
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
        left join lateral (
          select o.job_id, o.state, o.attempt, o.starts, o.due_at from open_jobs o where o.job_id = i.job_id offset 0
        ) o on true
       order by i.ord
    ) q;
  -- In a statement of its own, which opens each partition of jobs.
  if 'unknown' = any (v_outcomes) then
    select array_agg(case when i.outcome = 'unknown' and exists (select 1 from jobs j where j.id = i.job_id) then 'final' else i.outcome end
                     order by i.ord)
      into v_outcomes
      from unnest(p_job_ids, v_outcomes) with ordinality as i(job_id, outcome, ord);
  end if;

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
     set state = 'processing', run_id = relayforge.uuid7_of(v_stamp, 0, relayforge.uuid7_tail_of(v_seed, o.job_id)),
         lease_until = p_now + p_lease, started_at = p_now, starts = o.starts + 1,
         max_starts = least(p_max_starts, 32000)
   where o.job_id = any (v_starting) and o.state <> 'processing'
    returning o.job_id
  )
  select coalesce(array_agg(s.job_id order by s.job_id), '{}') into v_started from started s;
  -- Nearly never.
  if cardinality(v_started) < cardinality(v_starting) then
    select array_agg(case when i.run_id is null or i.job_id = any (v_started) then i.outcome else 'locked' end order by i.ord),
           array_agg(case when i.job_id = any (v_started) then i.run_id end order by i.ord)
      into v_outcomes, v_run_ids
      from unnest(p_job_ids, v_outcomes, v_run_ids) with ordinality as i(job_id, outcome, run_id, ord);
  end if;

  -- The partitions between the first and the last, of jobs and then of events, are all that is opened.
  v_first := v_started[1];
  v_last := v_started[cardinality(v_started)];
  select array_agg(q.tenant_id), array_agg(q.source), array_agg(q.kind), array_agg(q.event_id), array_agg(q.event_type),
         array_agg(q.correlation_id)
    into v_tenant_ids, v_sources, v_kinds, v_event_ids, v_event_types, v_correlation_ids
    from (
      select j.tenant_id, j.source, j.kind, j.event_id, j.event_type, j.correlation_id
        from generate_series(1, cardinality(p_job_ids)) as g(ord)
        -- Each by its key (lock_runs says why): between the first job and the last may be all of the jobs.
        left join lateral (
          select j.tenant_id, j.source, j.kind, j.event_id, j.event_type, j.correlation_id
            from jobs j
           where j.id = p_job_ids[g.ord] and v_run_ids[g.ord] is not null and j.id >= v_first and j.id <= v_last
          offset 0
        ) j on true
       order by g.ord
    ) q;
  -- Not in the statement above: beside an aggregate with an order of its own, PostgreSQL 16 gives all others that order, too.
  select array_agg(e.id order by e.id) into v_events from unnest(v_event_ids) e(id) where e.id is not null;
  v_first := v_events[1];
  v_last := v_events[cardinality(v_events)];
  return query
  select v_outcomes[g.ord], v_run_ids[g.ord], v_tenant_ids[g.ord], t.slug, v_sources[g.ord], s.kind, v_kinds[g.ord],
         v_event_ids[g.ord], v_event_types[g.ord], e.provider_event_id, v_correlation_ids[g.ord], e.headers, e.body, e.trace_context
    from generate_series(1, cardinality(p_job_ids)) as g(ord)
    left join lateral (
      select e.provider_event_id, e.headers, e.body, e.trace_context
        from webhook_inbox e
       where e.id = v_event_ids[g.ord] and e.id >= v_first and e.id <= v_last
      offset 0
    ) e on true
    left join lateral (select t.slug from tenants t where t.id = v_tenant_ids[g.ord] offset 0) t on true
    left join lateral (select s.kind from sources s where s.name = v_sources[g.ord] offset 0) s on true
   order by g.ord;
end $$;
comment on function relayforge.start_jobs is 'Starts the runs that messages ask for; answers each with its outcome and, where started, the run id and the event.';
grant execute on function relayforge.start_jobs to relayforge_consumer;
