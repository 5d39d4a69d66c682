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
language sql security definer
set search_path = store, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
  with claimed as (
    select o.id, o.job_id, o.event_id, o.attempt, o.next_attempt_at, o.attempts, o.refused_since
      from outbox_messages o
     where o.target = p_target
       and (o.next_attempt_at, o.id) >= (p_from_at, p_from_id)
       and o.next_attempt_at <= p_now
     order by o.next_attempt_at, o.id
     limit p_limit
       for update skip locked
  )
  select q.id, q.job_id, q.event_id, q.attempt, q.next_attempt_at, q.attempts,
         q.tenant_id, q.slug, q.source, q.kind, q.event_type, q.provider_event_id,
         q.correlation_id, q.headers, q.body, q.trace_context, q.cause, q.last_error, q.refused_since
    from (
      select c.id, c.job_id, c.event_id, c.attempt, c.next_attempt_at, c.attempts, c.refused_since,
             i.tenant_id, t.slug, i.source, s.kind, i.event_type, i.provider_event_id,
             i.correlation_id, i.headers, i.body, i.trace_context, d.cause, j.last_error,
             sum(octet_length(i.body)) over (
               order by c.next_attempt_at, c.id rows between unbounded preceding and 1 preceding) as bytes_before
        from claimed c
        left join webhook_inbox i on i.id = c.event_id
        left join tenants t on t.id = i.tenant_id
        left join sources s on s.name = i.source
        left join dead_jobs d on p_target = 'dlq' and d.job_id = c.job_id
        left join jobs j on p_target = 'dlq' and j.id = c.job_id
    ) q
   -- 4 MiB of bodies, and the one that passes it: what a relay holds in memory for one batch. What is cut off stays
   -- locked until the transaction ends, and is claimed by a later one.
   where coalesce(q.bytes_before, 0) < 4194304
   order by q.next_attempt_at, q.id
$$;
comment on function relayforge.claim_outbox is 'Claims due messages of one target until the end of the transaction, with what is needed to make them; event columns are null where the event is gone, cause and error are those of a job that was given up.';
grant execute on function relayforge.claim_outbox to relayforge_relay;
