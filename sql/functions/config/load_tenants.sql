-- All tenants, for the API's cache.
create function relayforge.load_tenants()
returns table (id uuid, slug text, status text, rate_per_second integer, rate_burst integer)
language sql stable security definer
set search_path = store, pg_temp
as $$
  select t.id, t.slug, t.status, t.rate_per_second, t.rate_burst from tenants t
$$;
comment on function relayforge.load_tenants is 'All tenants, for the API''s cache.';
grant execute on function relayforge.load_tenants to relayforge_api;
