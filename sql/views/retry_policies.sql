-- How failed jobs are tried again, where it differs from the consumers' configuration.
create view relayforge.retry_policies as
select t.slug as tenant,
       r.source,
       r.max_attempts,
       r.backoff_base,
       r.backoff_cap,
       r.jitter,
       r.updated_at
  from store.retry_policies r
  left join store.tenants t on t.id = r.tenant_id;
comment on view relayforge.retry_policies is 'How failed jobs are tried again, where it differs from the consumers'' configuration. Field by field, the narrowest policy counts: tenant and source, tenant, source, everybody.';
comment on column relayforge.retry_policies.tenant is 'The tenant''s slug; null for all.';
comment on column relayforge.retry_policies.source is 'The source; null for all.';
comment on column relayforge.retry_policies.max_attempts is 'Attempts in all, the first included; null where a wider policy or the consumer decides.';
comment on column relayforge.retry_policies.backoff_base is 'Wait before the second attempt; it doubles with each further one.';
comment on column relayforge.retry_policies.backoff_cap is 'The longest wait.';
comment on column relayforge.retry_policies.jitter is 'Share of the wait that is left to chance.';
comment on column relayforge.retry_policies.updated_at is 'When the policy was last set.';
grant select on relayforge.retry_policies to relayforge_dba;
