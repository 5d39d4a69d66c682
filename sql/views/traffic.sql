-- Deliveries and runs per minute, tenant and source, for the last two days.
create view relayforge.traffic as
select m.minute, t.slug as tenant, m.source, m.what, m.count
  from store.traffic_minutes m
  left join store.tenants t on t.id = m.tenant_id;
comment on view relayforge.traffic is 'Deliveries and runs per minute, tenant and source, for the last two days. Narrow by minute.';
comment on column relayforge.traffic.minute is 'Start of the minute.';
comment on column relayforge.traffic.tenant is 'The tenant''s slug.';
comment on column relayforge.traffic.source is 'The source.';
comment on column relayforge.traffic.what is 'accepted and duplicate: deliveries; succeeded, retried and dead_lettered: runs that ended so.';
comment on column relayforge.traffic.count is 'How many. A service that is killed loses the counts of its last second.';
grant select on relayforge.traffic to relayforge_dba;
