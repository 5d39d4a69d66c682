-- Bodies that came under more than one event id, where the id is not signed (a header: generic, github): somebody may
-- have captured a delivery and sends it again under new ids, or the sender's bodies are all alike. Among the newest
-- 20,000 deliveries of the last day: an index on the hash would cost every webhook, for a question that is rarely asked.
create view relayforge.suspected_replays as
select t.slug as tenant,
       b.source,
       b.event_type,
       b.events,
       b.first_event_id,
       b.last_event_id,
       relayforge.uuid7_time(b.first_id) as first_at,
       relayforge.uuid7_time(b.last_id) as last_at
  from (
    -- In two steps, which is faster than count(distinct), and with ids as text: PostgreSQL 15 has no min() of a UUID.
    select e.tenant_id, e.source, e.body_sha256, min(e.event_type) as event_type, count(*) as events,
           min(e.event_id::text)::uuid as first_event_id, max(e.event_id::text)::uuid as last_event_id,
           min(e.first_id)::uuid as first_id, max(e.last_id)::uuid as last_id
      from (
        select i.tenant_id, i.source, i.body_sha256, i.event_id, min(i.event_type) as event_type,
               min(i.id::text) as first_id, max(i.id::text) as last_id
          from (
            select i.id, i.event_id, i.tenant_id, i.source, i.event_type, i.body_sha256, i.provider_event_id
              from store.webhook_inbox i
             where i.id >= relayforge.uuid7_floor(statement_timestamp() - interval '1 day')
             order by i.id desc
             limit 20000
          ) i
         where i.provider_event_id is not null
           and i.source in (select s.name from store.sources s where s.kind in ('generic', 'github'))
         group by i.tenant_id, i.source, i.body_sha256, i.event_id
      ) e
     group by e.tenant_id, e.source, e.body_sha256
    having count(*) > 1
  ) b
  left join store.tenants t on t.id = b.tenant_id;
comment on view relayforge.suspected_replays is 'Bodies that came under more than one event id where the id is not signed, among the newest 20,000 deliveries of the last day.';
comment on column relayforge.suspected_replays.tenant is 'The tenant''s slug.';
comment on column relayforge.suspected_replays.source is 'The source.';
comment on column relayforge.suspected_replays.event_type is 'What happened, in the provider''s words.';
comment on column relayforge.suspected_replays.events is 'Under how many event ids the body came.';
comment on column relayforge.suspected_replays.first_event_id is 'Our id of the first of them: see event_timeline.';
comment on column relayforge.suspected_replays.last_event_id is 'Our id of the last of them.';
comment on column relayforge.suspected_replays.first_at is 'When the first of them came.';
comment on column relayforge.suspected_replays.last_at is 'When the last of them came.';
grant select on relayforge.suspected_replays to relayforge_dba;
