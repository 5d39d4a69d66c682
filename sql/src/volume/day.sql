-- Jobs number fill.first to fill.last of fill.jobs, which are spread evenly over the thirty days before fill.now, with all
-- that has become of them. What is older than fill.inbox_from has no delivery any more, nor a row of the ledger.
-- One job in 20 is the first tenant's heartbeat; one in 200 was given up, half of them the first tenant's; one in 50 needed a
-- second attempt; one event in 100 came twice; of the last day's jobs every fill.open_every-th is open.
truncate chunk;
insert into chunk
select c.n, c.at, relayforge.uuid7(c.at, c.n::integer & 4095), relayforge.uuid7(c.at, c.n::integer & 4095),
       -- Nine in ten are of the 16 large tenants, unevenly; the rest of the 1,000 small ones.
       t.ids[case when c.size < 0.9 then 1 + floor(16 * c.which * c.which)::integer else 17 + floor(1000 * c.which)::integer end],
       s.source, s.event_type, s.provider_event_id, c.hash,
       case when o.nth is null then null when o.nth % 20 < 8 then 'queued' when o.nth % 20 < 14 then 'processing'
            when o.nth % 20 < 18 then 'retrying' else 'held' end,
       o.nth,
       case when o.nth is not null or c.n % 200 <> 100 then null when c.n / 200 % 50 < 20 then 'permanent'
            when c.n / 200 % 50 < 45 then 'exhausted' when c.n / 200 % 50 < 49 then 'poison' else 'unpublishable' end,
       c.n % 50 = 7,
       c.at >= current_setting('fill.inbox_from')::timestamptz
  from (
    select n, md5(n::text) as hash,
           case when n % 20 = 3 or n % 400 = 100 then 0 else random() end as size,
           case when n % 20 = 3 or n % 400 = 100 then 0 else random() end as which,
           current_setting('fill.now')::timestamptz
             - (current_setting('fill.jobs')::bigint - n + 1) * (interval '30 days' / current_setting('fill.jobs')::double precision) as at
      from generate_series(current_setting('fill.first')::bigint, current_setting('fill.last')::bigint) n
    offset 0
  ) c
 cross join (select array_agg(id order by id) as ids from tenants where slug ~ '^(large|small)-') t
 cross join lateral (
   select case when c.n % 10 < 5 then 'generic' when c.n % 10 < 8 then 'github' else 'stripe' end as source,
          case c.n % 10 when 0 then 'order.created' when 1 then 'order.paid' when 2 then 'order.shipped' when 3 then 'user.created'
            when 4 then 'stock.low' when 5 then 'push' when 6 then 'pull_request.opened' when 7 then 'issues.closed'
            when 8 then 'invoice.paid' else 'payment_intent.succeeded' end as event_type,
          case when c.n % 10 < 5 then 'shop-evt-' || c.hash when c.n % 10 < 8 then c.hash::uuid::text
               else 'evt_' || left(c.hash, 24) end as provider_event_id
 ) s
  left join lateral (
    select (c.n - current_setting('fill.open_from')::bigint) / current_setting('fill.open_every')::bigint as nth
     where c.n >= current_setting('fill.open_from')::bigint
       and (c.n - current_setting('fill.open_from')::bigint) % current_setting('fill.open_every')::bigint = 0
       and (c.n - current_setting('fill.open_from')::bigint) / current_setting('fill.open_every')::bigint
           < current_setting('fill.open')::bigint
  ) o on true;

insert into jobs (id, event_id, tenant_id, source, kind, event_type, dedup_key, correlation_id,
                  outcome, attempts, started_at, finished_at, last_error)
select c.job_id, c.event_id, c.tenant_id, c.source, 'log', c.event_type, 'provider:' || c.provider_event_id,
       'perf-' || left(c.hash, 20), e.outcome,
       case when e.outcome is not null then case when c.cause = 'exhausted' then 5 when c.retried then 2 else 1 end end,
       case when e.outcome is not null then c.at + interval '0.3 s' end,
       case when e.outcome is not null then c.at + interval '0.4 s' end,
       case when c.cause is not null then 'the shop answered 500 to request ' || c.hash end
  from chunk c
 cross join lateral (
   select case when c.state is null
               then case when c.cause is not null then 'dead_lettered' when c.n % 5000 = 1 then 'cancelled' else 'succeeded' end
          end as outcome
 ) e;

insert into webhook_inbox (id, event_id, tenant_id, source, provider_event_id, event_type, body, body_sha256,
                           headers, signature_timestamp, correlation_id)
select c.event_id, c.event_id, c.tenant_id, c.source, c.provider_event_id, c.event_type, b.body, sha256(b.body),
       jsonb_build_object('content-type', 'application/json', 'user-agent', 'harbourline-shop/3.2', 'x-event-id', c.provider_event_id),
       case when c.source = 'stripe' then date_trunc('second', c.at) end, 'perf-' || left(c.hash, 20)
  from chunk c
 cross join lateral (
   -- 200 to 580 bytes; the first tenant's heartbeats are all alike.
   select convert_to(case when c.n % 20 = 3 then '{"event":"heartbeat"}' else format('{"event":"%s","data":{"number":%s,"pad":"%s"}}', c.event_type, c.n, repeat(c.hash, 4 + c.n::integer % 13)) end,
                     'UTF8') as body
 ) b
 where c.stored;
insert into webhook_inbox (id, event_id, tenant_id, source, provider_event_id, event_type, body_sha256, headers, correlation_id)
select relayforge.uuid7(c.at + interval '20 s', 0), c.event_id, c.tenant_id, c.source, c.provider_event_id, c.event_type,
       sha256(c.hash::bytea), '{"content-type": "application/json"}', 'perf-again-' || left(c.hash, 14)
  from chunk c
 where c.stored and c.n % 100 = 50;

insert into dedup_ledger (digest, event_id, duplicates, by_hash)
select relayforge.dedup_digest(c.tenant_id, c.source, 'provider:' || c.provider_event_id), c.event_id,
       case when c.n % 100 = 50 then 1 else 0 end, false
  from chunk c
 where c.stored
 order by 1;
insert into stripe_event_idempotency (tenant_id, source, provider_event_id, event_id, signature_timestamp)
select c.tenant_id, c.source, c.provider_event_id, c.event_id, date_trunc('second', c.at)
  from chunk c
 where c.stored and c.source = 'stripe'
 order by 1, 2, 3;
insert into rejected_replays (tenant_id, source, provider_event_id, event_id, times, first_at, last_at)
select c.tenant_id, c.source, c.provider_event_id, c.event_id, 3, c.at + interval '30 s', c.at + interval '90 s'
  from chunk c
 where c.stored and c.source = 'stripe' and c.n % 100 = 9;

insert into job_log (id, job_id, what, attempt, detail)
select relayforge.uuid7(l.at, 0), l.job_id, l.what, l.attempt, l.detail
  from (
    select c.at + interval '0.2 s' as at, c.job_id, 'published' as what, 1::smallint as attempt, null as detail
      from chunk c
     where c.state is distinct from 'queued'
     union all
    select c.at + interval '0.3 s', c.job_id, 'failed', 1, 'the shop answered 500 to request ' || c.hash
      from chunk c
     where c.retried or c.cause is not null
     union all
    select c.at + interval '0.4 s', c.job_id, 'dead', 1, c.cause || ': the shop answered 500 to request ' || c.hash
      from chunk c
     where c.cause is not null
  ) l
 order by l.at;
insert into dead_jobs (job_id, tenant_id, source, cause, dead_at)
select c.job_id, c.tenant_id, c.source, c.cause, c.at + interval '0.4 s' from chunk c where c.cause is not null;

insert into open_jobs (job_id, tenant_id, state, attempt, starts, run_id, lease_until, started_at, due_at)
select c.job_id, c.tenant_id, c.state, case c.state when 'retrying' then 2 else 1 end,
       case when r.runs then 1 else 0 end,
       case when r.runs then gen_random_uuid() end,
       -- One lease in 50 ran out a while ago.
       case when r.runs then n.now + case when c.nth % 50 = 8 then interval '-60 s' else interval '30 s' end end,
       case when r.runs or c.state = 'retrying' then n.now - interval '10 s' end,
       d.due_at
  from chunk c
 cross join lateral (select c.state = 'processing' as runs) r
 cross join (select current_setting('fill.now')::timestamptz as now) n
 cross join lateral (
   select case when c.state = 'retrying' then n.now + c.n % 300 * interval '1 s'
               when c.state = 'held' and c.nth % 2 = 0 then date_trunc('day', n.now, 'UTC') + interval '1 day'
               when c.state = 'held' then 'infinity'
               else c.at end as due_at
 ) d
 where c.state is not null;
insert into outbox_messages (id, target, job_id, event_id, attempt, next_attempt_at, attempts, last_error)
select relayforge.uuid7(c.at, 0), x.target, c.job_id, c.event_id, coalesce(o.attempt, 1), coalesce(o.due_at, c.at), x.tries,
       case when x.tries > 0 then 'the broker gave no confirm within 10 s' end
  from chunk c
  left join open_jobs o on o.job_id = c.job_id
 cross join lateral (
   select 'jobs' as target, case when c.n % 7 = 0 then 3 else 0 end as tries
    where c.state in ('queued', 'retrying') or (c.state = 'held' and o.due_at < 'infinity')
    union all
   select 'events', 0 where c.state = 'queued' and c.source = 'github'
    union all
   select 'dlq', 0 where c.cause is not null and c.n > current_setting('fill.open_from')::bigint and c.n % 1000 = 100
 ) x;
