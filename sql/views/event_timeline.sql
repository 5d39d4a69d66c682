-- What happened to an event, from its first delivery to the end of its jobs. Give it an event_id or a job_id: each part
-- is then a probe of an index. By the provider's id: where event_id = relayforge.event_of(tenant, source, id).
create view relayforge.event_timeline as
select t.slug as tenant,
       j.source,
       e.provider_event_id,
       j.event_id,
       j.id as job_id,
       x.at,
       x.what,
       x.attempt,
       x.detail
  from store.jobs j
  left join store.tenants t on t.id = j.tenant_id
  left join store.webhook_inbox e on e.id = j.event_id
  left join store.open_jobs o on o.job_id = j.id
 cross join lateral (
   select relayforge.uuid7_time(e.id) as at, 'received' as what, null::integer as attempt,
          'correlation id ' || e.correlation_id as detail
    where e.id is not null
    union all
   select relayforge.uuid7_time(d.id), 'duplicate', null, case when d.body is not null then 'its body differs' end
     from store.webhook_inbox d
    where d.event_id = j.event_id and d.event_id <> d.id
    union all
   select r.last_at, 'replay', null, format('refused %s times since %s', r.times, r.first_at)
     from store.rejected_replays r
    where r.tenant_id = j.tenant_id and r.source = j.source and r.provider_event_id = e.provider_event_id
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
   select coalesce(o.started_at, j.started_at), 'started', coalesce(o.attempt, j.attempts),
          case when o.run_id is not null then format('run %s, its lease lasts until %s', o.run_id, o.lease_until) end
    where o.run_id is not null or j.started_at is not null
    union all
   select o.due_at, 'due', o.attempt, o.state
    where o.state = 'retrying' or (o.state = 'held' and o.due_at < 'infinity')
    union all
   select j.finished_at, 'succeeded', j.attempts, null
    where j.outcome = 'succeeded'
 ) x;
comment on view relayforge.event_timeline is 'What happened to an event and its jobs, a row each. Give it an event_id (relayforge.event_of finds it by the provider''s id) or a job_id, and order by at.';
comment on column relayforge.event_timeline.tenant is 'The tenant''s slug.';
comment on column relayforge.event_timeline.source is 'The source.';
comment on column relayforge.event_timeline.provider_event_id is 'The provider''s id of the event.';
comment on column relayforge.event_timeline.event_id is 'Our id of the event. Narrow by this.';
comment on column relayforge.event_timeline.job_id is 'The job. Or by this.';
comment on column relayforge.event_timeline.at is 'When it happened. In the future for what is due.';
comment on column relayforge.event_timeline.what is 'received, duplicate, replay (the last one refused), queued, published, started (the last run), failed, rescued, dead, succeeded, due, or an operator''s verb.';
comment on column relayforge.event_timeline.attempt is 'The attempt it happened to.';
comment on column relayforge.event_timeline.detail is 'The error, the cause, or who gave which reason.';
grant select on relayforge.event_timeline to relayforge_dba;
