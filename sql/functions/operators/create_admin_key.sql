-- Makes a key of the admin API from the SHA-256 of it. RF409: the key exists.
create function relayforge.create_admin_key(p_name text, p_role text, p_key_sha256 bytea)
returns uuid
language plpgsql security definer
set search_path = store, pg_temp
as $$
declare
  v_id constant uuid := relayforge.uuid7(clock_timestamp(), 0);
begin
  insert into admin_api_keys (id, name, role, key_sha256) values (v_id, p_name, p_role, p_key_sha256);
  return v_id;
exception when unique_violation then
  raise exception 'this key exists already' using errcode = 'RF409';
end $$;
comment on function relayforge.create_admin_key is 'Makes a key of the admin API and returns its id; the key itself is never stored.';
