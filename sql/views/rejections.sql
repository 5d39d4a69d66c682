-- What was refused, per hour. The samples of malformed bodies are payload: only whether there is one is shown.
create view relayforge.rejections as
select r.hour, t.slug as tenant, r.source, r.cause, r.count, r.last_at, r.sample is not null as sampled
  from store.webhook_rejections r
  left join store.tenants t on t.id = r.tenant_id;
comment on view relayforge.rejections is 'Webhooks that were refused, per hour, tenant, source and cause. Narrow by hour.';
comment on column relayforge.rejections.hour is 'Start of the UTC hour.';
comment on column relayforge.rejections.tenant is 'The tenant''s slug; null where the request named none that exists.';
comment on column relayforge.rejections.source is 'The source; empty where the request named none that exists.';
comment on column relayforge.rejections.cause is 'The code of the problem that was answered.';
comment on column relayforge.rejections.count is 'How many.';
comment on column relayforge.rejections.last_at is 'When the last of them was counted.';
comment on column relayforge.rejections.sampled is 'Whether a sample of a signed but malformed body was kept.';
grant select on relayforge.rejections to relayforge_dba;
