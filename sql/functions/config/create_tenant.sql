-- Makes a tenant. RF409: the slug or id is taken. 23514: a value that the table's checks refuse.
create function relayforge.create_tenant(p_slug text, p_name text, p_id uuid default null)
returns uuid
language plpgsql security definer
set search_path = store, pg_temp
as $$
declare
  v_id uuid := coalesce(p_id, relayforge.uuid7(clock_timestamp(), 0));
begin
  insert into tenants (id, slug, name) values (v_id, p_slug, p_name);
  return v_id;
exception when unique_violation then
  raise exception 'a tenant with slug % or id % exists', p_slug, v_id using errcode = 'RF409';
end $$;
comment on function relayforge.create_tenant is 'Makes a tenant and returns its id.';
