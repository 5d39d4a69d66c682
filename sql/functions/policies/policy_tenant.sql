-- The id of the tenant that a policy names by slug or id; null for none named. RF404: no such tenant, or no such source. Not
-- granted to anybody.
create function relayforge.policy_tenant(p_tenant text, p_source text)
returns uuid
language plpgsql stable
set search_path = store, pg_temp
as $$
declare
  v_tenant_id uuid;
begin
  if p_tenant is not null then
    select t.id into v_tenant_id from tenants t where t.slug = p_tenant or t.id::text = lower(p_tenant);
    if v_tenant_id is null then
      raise exception 'tenant % does not exist', p_tenant using errcode = 'RF404';
    end if;
  end if;
  if p_source is not null and not exists (select 1 from sources s where s.name = p_source) then
    raise exception 'source % does not exist', p_source using errcode = 'RF404';
  end if;
  return v_tenant_id;
end $$;
comment on function relayforge.policy_tenant is 'The id of the tenant that a policy names; null for none named.';
