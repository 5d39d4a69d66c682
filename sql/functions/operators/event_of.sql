-- The event that a provider's id names: the newest, where the id came again after the dedup window. Through the dedup
-- ledger, so it costs one probe; known for as long as deliveries are kept. Null if there is none.
-- In plpgsql because a view of many partitions calls it for each of them, and there it keeps its plan.
create function relayforge.event_of(p_tenant text, p_source text, p_provider_event_id text)
returns uuid
language plpgsql stable security definer
set search_path = store, pg_temp
as $$
begin
  return (
    select l.event_id
      from tenants t
      join dedup_ledger l on l.digest = relayforge.dedup_digest(t.id, p_source, 'provider:' || p_provider_event_id)
     where t.slug = p_tenant);
end $$;
comment on function relayforge.event_of is 'The event that a tenant''s slug, a source and the provider''s id name: the newest, where the id came again after the dedup window. Null if there is none, or if its dedup key was a hash.';
grant execute on function relayforge.event_of to relayforge_dba;
