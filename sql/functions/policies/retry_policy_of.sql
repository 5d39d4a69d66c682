-- What store.retry_policies says of a tenant's source: field by field, the narrowest row that has one (tenant and source,
-- tenant, source, everybody). Always one row; null where none says anything. Not granted to anybody.
create function relayforge.retry_policy_of(p_tenant_id uuid, p_source text)
returns table (max_attempts smallint, backoff_base interval, backoff_cap interval, jitter double precision)
language sql stable
set search_path = store, pg_temp
as $$
  select (array_agg(r.max_attempts order by r.tenant_id, r.source) filter (where r.max_attempts is not null))[1],
         (array_agg(r.backoff_base order by r.tenant_id, r.source) filter (where r.backoff_base is not null))[1],
         (array_agg(r.backoff_cap order by r.tenant_id, r.source) filter (where r.backoff_cap is not null))[1],
         (array_agg(r.jitter order by r.tenant_id, r.source) filter (where r.jitter is not null))[1]
    from retry_policies r
    -- Nulls sort last: the wider row after the narrower.
   where (r.tenant_id = p_tenant_id or r.tenant_id is null) and (r.source = p_source or r.source is null)
$$;
comment on function relayforge.retry_policy_of is 'What the retry policies say of a tenant''s source, field by field; null where none says anything.';
