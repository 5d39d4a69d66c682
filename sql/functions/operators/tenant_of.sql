-- A tenant's id by its slug, for views that are narrowed by tenant_id; null if there is none. A condition on the slug is
-- only known to be about one tenant once the query runs: the planner then takes every tenant for an average one, and reads
-- all jobs for the newest of a tenant that has few.
create function relayforge.tenant_of(p_tenant text)
returns uuid
language plpgsql stable security definer
set search_path = store, pg_temp
as $$
begin
  return (select t.id from tenants t where t.slug = p_tenant);
end $$;
comment on function relayforge.tenant_of is 'A tenant''s id by its slug; null if there is none. Narrow job_overview by tenant_id = relayforge.tenant_of(…).';
grant execute on function relayforge.tenant_of to relayforge_dba;
