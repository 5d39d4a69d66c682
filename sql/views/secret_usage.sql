-- Which secret versions still verify webhooks, so that retiring one is safe.
create view relayforge.secret_usage as
select t.slug as tenant,
       s.source,
       s.id as secret_id,
       s.created_at,
       s.retired_at,
       s.retired_at is null and not exists (
         select 1 from store.tenant_provider_secrets n
          where n.tenant_id = s.tenant_id and n.source = s.source and n.retired_at is null and n.id > s.id) as is_current,
       coalesce(u.uses, 0) as uses,
       u.last_used_at
  from store.tenant_provider_secrets s
  left join store.tenants t on t.id = s.tenant_id
  left join store.secret_usage u on u.secret_id = s.id;
comment on view relayforge.secret_usage is 'Which secret versions still verify webhooks. One that has verified nothing since the provider got the new one can be retired.';
comment on column relayforge.secret_usage.tenant is 'The tenant''s slug.';
comment on column relayforge.secret_usage.source is 'The source.';
comment on column relayforge.secret_usage.secret_id is 'The secret version.';
comment on column relayforge.secret_usage.created_at is 'When it was added.';
comment on column relayforge.secret_usage.retired_at is 'From when on it verifies nothing; null while it is valid.';
comment on column relayforge.secret_usage.is_current is 'Whether it is the newest valid version.';
comment on column relayforge.secret_usage.uses is 'Webhooks that it has verified and that were accepted or duplicates.';
comment on column relayforge.secret_usage.last_used_at is 'When the last of them was counted; null if there was none.';
grant select on relayforge.secret_usage to relayforge_dba;
