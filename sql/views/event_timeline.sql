-- What happened to an event, from its first delivery to the end of its jobs. Give it an event_id or a job_id: each part
-- is then a probe of an index. By the provider's id: where event_id = relayforge.event_of(tenant, source, id).
-- Ids carry milliseconds, so `at` has no more; `step` has the order within one. Driven by the jobs, which outlive their
-- deliveries: what only the inbox knows is then missing, not the event.
create view relayforge.event_timeline as
select t.slug as tenant,
       j.source,
       p.provider_event_id,
       j.event_id,
       j.id as job_id,
       date_trunc('milliseconds', x.at) as at,
       x.what,
       x.attempt,
       x.detail,
       100 * coalesce(x.attempt, 0) + array_position(
         array['received', 'queued', 'duplicate', 'replay', 'erased',
               'held', 'released', 'due', 'published', 'started', 'rescued', 'failed', 'dead', 'succeeded', 'cancelled',
               'reprocessed'],
         x.what) as step
  from store.jobs j
  left join store.tenants t on t.id = j.tenant_id
  left join store.webhook_inbox e on e.id = j.event_id
  left join store.open_jobs o on o.job_id = j.id
 cross join lateral (
   select coalesce(e.provider_event_id, case when j.dedup_key like 'provider:%' then substr(j.dedup_key, 10) end) as provider_event_id,
          -- An attempt that has not begun is no run.
          coalesce(j.attempts, o.attempt - case when o.run_id is null then 1 else 0 end) as attempts
 ) p
 cross join lateral (
   select relayforge.uuid7_time(j.event_id) as at, 'received' as what, null::integer as attempt,
          case when e.id is null then 'its delivery is past its retention' else 'correlation id ' || e.correlation_id end as detail
    union all
   select relayforge.uuid7_time(d.id), 'duplicate', null, case when d.body is not null then 'its body differs' end
     from store.webhook_inbox d
    where d.event_id = j.event_id and d.event_id <> d.id
    union all
   select r.last_at, 'replay', null, format('refused %s times since %s', r.times, r.first_at)
     from store.rejected_replays r
    where r.tenant_id = j.tenant_id and r.source = j.source and r.provider_event_id = p.provider_event_id
    union all
   select e.erased_at, 'erased', null, null
    where e.erased_at is not null
    union all
   select relayforge.uuid7_time(j.id), 'queued', null, 'as a job of kind ' || j.kind
    union all
   select relayforge.uuid7_time(l.id), l.what, l.attempt, l.detail
     from store.job_log l
    where l.job_id = j.id and l.id >= relayforge.uuid7_floor(relayforge.uuid7_time(j.id))
    union all
   select coalesce(o.started_at, j.started_at), 'started', p.attempts,
          case when o.run_id is not null then format('run %s, its lease lasts until %s', o.run_id, o.lease_until) end
    where coalesce(o.started_at, j.started_at) is not null
    union all
   select o.due_at, 'due', o.attempt, o.state
    where o.state = 'retrying' or (o.state = 'held' and o.due_at < 'infinity')
    union all
   select j.finished_at, 'succeeded', j.attempts, null
    where j.outcome = 'succeeded'
    union all
   -- Erasure ends open jobs without a verb, so the log has no row of it.
   select j.finished_at, 'cancelled', j.attempts, 'its event was erased'
    where j.outcome = 'cancelled' and j.finished_at = e.erased_at
 ) x;
comment on view relayforge.event_timeline is 'What happened to an event and its jobs, a row each. Give it an event_id (relayforge.event_of finds it by the provider''s id) or a job_id, and order by at, step.';
comment on column relayforge.event_timeline.tenant is 'The tenant''s slug.';
comment on column relayforge.event_timeline.source is 'The source.';
comment on column relayforge.event_timeline.provider_event_id is 'The provider''s id of the event.';
comment on column relayforge.event_timeline.event_id is 'Our id of the event. Narrow by this.';
comment on column relayforge.event_timeline.job_id is 'The job. Or by this.';
comment on column relayforge.event_timeline.at is 'When it happened, to the millisecond. In the future for what is due.';
comment on column relayforge.event_timeline.what is 'received, duplicate, replay (the last one refused), erased, queued, published, started (the last run), failed, rescued (lease ran out), dead, succeeded, due (the next attempt), or an operator''s verb: held, released, cancelled, reprocessed.';
comment on column relayforge.event_timeline.attempt is 'The attempt it happened to.';
comment on column relayforge.event_timeline.detail is 'The error, the cause, or who gave which reason.';
comment on column relayforge.event_timeline.step is 'The order of what happened within one millisecond.';
grant select on relayforge.event_timeline to relayforge_dba;
