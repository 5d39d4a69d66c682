-- The event that a provider's id names: the newest, where the id came again after the dedup window. Through the dedup
-- ledger, so it costs one probe; known for as long as deliveries are kept. Null if there is none.
create function relayforge.event_of(p_tenant text, p_source text, p_provider_event_id text)
returns uuid
language sql stable security definer
set search_path = store, pg_temp
as $$
  select l.event_id
    from tenants t
    join dedup_ledger l on l.digest = relayforge.dedup_digest(t.id, p_source, 'provider:' || p_provider_event_id)
   where t.slug = p_tenant
$$;
comment on function relayforge.event_of is 'The event that a tenant''s slug, a source and the provider''s id name; null if there is none.';
grant execute on function relayforge.event_of to relayforge_dba;
