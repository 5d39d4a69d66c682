-- Adds a version of a signing secret; versions before it stay valid. The caller has sealed it under p_id.
-- RF404: no such tenant or source. RF409: the id is taken.
create function relayforge.add_secret(p_id uuid, p_tenant_id uuid, p_source text, p_ciphertext bytea, p_master_key_id text)
returns void
language plpgsql security definer
set search_path = store, pg_temp
as $$
begin
  insert into tenant_provider_secrets (id, tenant_id, source, ciphertext, master_key_id)
  values (p_id, p_tenant_id, p_source, p_ciphertext, p_master_key_id);
exception
  when foreign_key_violation then
    raise exception 'tenant % or source % does not exist', p_tenant_id, p_source using errcode = 'RF404';
  when unique_violation then
    raise exception 'a secret with id % exists', p_id using errcode = 'RF409';
end $$;
comment on function relayforge.add_secret is 'Adds a version of a signing secret, sealed under its id; earlier versions stay valid.';
