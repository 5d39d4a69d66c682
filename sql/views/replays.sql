-- Events whose replays were refused with 409.
create view relayforge.replays as
select t.slug as tenant, r.source, r.provider_event_id, r.event_id, r.times, r.first_at, r.last_at
  from store.rejected_replays r
  left join store.tenants t on t.id = r.tenant_id;
comment on view relayforge.replays is 'Events whose replays were refused with 409, and how often.';
comment on column relayforge.replays.tenant is 'The tenant''s slug.';
comment on column relayforge.replays.source is 'The source.';
comment on column relayforge.replays.provider_event_id is 'The provider''s id of the event.';
comment on column relayforge.replays.event_id is 'Our id of it: see event_timeline.';
comment on column relayforge.replays.times is 'Replays refused.';
comment on column relayforge.replays.first_at is 'When the first of them came.';
comment on column relayforge.replays.last_at is 'When the last of them came.';
grant select on relayforge.replays to relayforge_dba;
