-- Claims up to p_limit due messages of one target, oldest first and 4 MiB of bodies at the most, for as long as the
-- caller's transaction lasts; what another relay has claimed is passed over. p_from_at and p_from_id are the caller's
-- low-water mark: what sorts before is not looked at (dead rows before it are what makes a claim slow under an old
-- snapshot).
-- Locks: FOR UPDATE on the rows returned.
create function relayforge.claim_outbox(
  p_target text,
  p_limit integer,
  p_from_at timestamptz default '-infinity',
  p_from_id uuid default '00000000-0000-0000-0000-000000000000',
  p_now timestamptz default clock_timestamp()
)
returns table (
  id uuid, job_id uuid, event_id uuid, attempt smallint, next_attempt_at timestamptz, attempts integer,
  tenant_id uuid, tenant_slug text, source text, source_kind text, event_type text, provider_event_id text,
  correlation_id text, headers jsonb, body bytea, trace_context jsonb, cause text, error text,
  refused_since timestamptz
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
  -- 4 MiB of bodies, and the one that passes it: what a relay holds in memory for one batch. What is cut off stays locked
  -- until the transaction ends, and is claimed by a later one.
  c_most_bytes constant integer := 4194304;
  v_ids uuid[];
  v_job_ids uuid[];
  v_event_ids uuid[];
  v_attempts smallint[];
  v_dues timestamptz[];
  v_tries integer[];
  v_refused timestamptz[];
  v_causes text[];
  v_errors text[];
  v_events uuid[]; -- sorted
  v_first uuid;
  v_last uuid;
begin
  select array_agg(c.id), array_agg(c.job_id), array_agg(c.event_id), array_agg(c.attempt), array_agg(c.next_attempt_at),
         array_agg(c.attempts), array_agg(c.refused_since)
    into v_ids, v_job_ids, v_event_ids, v_attempts, v_dues, v_tries, v_refused
    from (
      select o.id, o.job_id, o.event_id, o.attempt, o.next_attempt_at, o.attempts, o.refused_since
        from outbox_messages o
       where o.target = p_target
         and (o.next_attempt_at, o.id) >= (p_from_at, p_from_id)
         and o.next_attempt_at <= p_now
       order by o.next_attempt_at, o.id
       limit p_limit
         for update skip locked
    ) c;
  -- A claim of none goes on, so that all is planned (warm_up.rs).
  if v_ids is null and p_limit > 0 then
    return;
  end if;
  if p_target = 'dlq' then
    select array_agg(d.cause order by i.ord), array_agg(j.last_error order by i.ord) into v_causes, v_errors
      from unnest(v_job_ids) with ordinality as i(job_id, ord)
      left join dead_jobs d on d.job_id = i.job_id
      left join jobs j on j.id = i.job_id;
  end if;
  -- The partitions between the first and the last event are all that is opened.
  -- Not in the statement above: beside an aggregate with an order of its own, PostgreSQL 16 gives all others that order, too.
  select array_agg(e.id order by e.id) into v_events from unnest(v_event_ids) e(id);
  v_first := v_events[1];
  v_last := v_events[cardinality(v_events)];

  return query
  select q.id, q.job_id, q.event_id, q.attempt, q.next_attempt_at, q.attempts,
         q.tenant_id, q.slug, q.source, q.kind, q.event_type, q.provider_event_id,
         q.correlation_id, q.headers, q.body, q.trace_context, q.cause, q.error, q.refused_since
    from (
      select v_ids[g.ord] as id, v_job_ids[g.ord] as job_id, v_event_ids[g.ord] as event_id, v_attempts[g.ord] as attempt,
             v_dues[g.ord] as next_attempt_at, v_tries[g.ord] as attempts, v_refused[g.ord] as refused_since,
             v_causes[g.ord] as cause, v_errors[g.ord] as error,
             i.tenant_id, t.slug, i.source, s.kind, i.event_type, i.provider_event_id,
             i.correlation_id, i.headers, i.body, i.trace_context, g.ord,
             sum(octet_length(i.body)) over (order by g.ord rows between unbounded preceding and 1 preceding) as bytes_before
        from generate_series(1, cardinality(v_ids)) as g(ord)
        -- Each by its key (lock_runs says why): between the first event and the last may be all of the inbox.
        left join lateral (
          select i.tenant_id, i.source, i.event_type, i.provider_event_id, i.correlation_id, i.headers, i.body, i.trace_context
            from webhook_inbox i
           where i.id = v_event_ids[g.ord] and i.id >= v_first and i.id <= v_last
          offset 0
        ) i on true
        left join lateral (select t.slug from tenants t where t.id = i.tenant_id offset 0) t on true
        left join lateral (select s.kind from sources s where s.name = i.source offset 0) s on true
    ) q
   where coalesce(q.bytes_before, 0) < c_most_bytes
   order by q.ord;
end $$;
comment on function relayforge.claim_outbox is 'Claims due messages of one target until the end of the transaction, with what is needed to make them; event columns are null where the event is gone, cause and error are those of a job that was given up.';
grant execute on function relayforge.claim_outbox to relayforge_relay;
