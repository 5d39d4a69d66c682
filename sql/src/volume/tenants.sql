-- What a measured database has before its first job, as the owner: 16 large tenants and a tail of 1,000 small ones with
-- quotas that no run uses up, one tenant that never sent anything, and their secrets.
insert into tenants (id, slug, name, daily_quota)
select relayforge.uuid7(clock_timestamp() - interval '60 days', n),
       case when n <= 16 then 'large-' || n when n <= 1016 then 'small-' || n - 16 else 'idle' end,
       'Tenant ' || n, 1000000000
  from generate_series(1, 1017) n;

-- Two versions for each tenant and source: one retired when the other came.
insert into tenant_provider_secrets (id, tenant_id, source, ciphertext, master_key_id, created_at, retired_at)
select relayforge.uuid7(v.at, 0), t.id, s.name, decode(repeat(md5(t.slug), 4), 'hex'), '0123456789abcdef', v.at, v.retired_at
  from tenants t
 cross join sources s
 cross join (values (clock_timestamp() - interval '50 days', clock_timestamp() - interval '20 days'),
                    (clock_timestamp() - interval '21 days', null)) v(at, retired_at);
analyze tenants, sources, tenant_provider_secrets;
