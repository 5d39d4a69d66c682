-- Bodies that came under more than one event id, where the id is not signed (a header: generic, github): somebody may
-- have captured a delivery and sends it again under new ids, or the sender's bodies are all alike. Among the newest
-- 20,000 deliveries of the last day: an index on the hash would cost every webhook, for a question that is rarely asked.
create view relayforge.suspected_replays as
select t.slug as tenant,
       r.source,
       min(r.event_type) as event_type,
       count(distinct r.event_id) as events,
       (array_agg(r.event_id order by r.id))[1] as first_event_id,
       (array_agg(r.event_id order by r.id desc))[1] as last_event_id,
       relayforge.uuid7_time((array_agg(r.id order by r.id))[1]) as first_at,
       relayforge.uuid7_time((array_agg(r.id order by r.id desc))[1]) as last_at
  from (
    select i.id, i.event_id, i.tenant_id, i.source, i.event_type, i.body_sha256, i.provider_event_id
      from store.webhook_inbox i
     where i.id >= relayforge.uuid7_floor(statement_timestamp() - interval '1 day')
     order by i.id desc
     limit 20000
  ) r
  join store.sources s on s.name = r.source and s.kind in ('generic', 'github')
  left join store.tenants t on t.id = r.tenant_id
 where r.provider_event_id is not null
 group by t.slug, r.tenant_id, r.source, r.body_sha256
having count(distinct r.event_id) > 1;
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
