-- All valid secrets, sealed, newest first, for the API's cache.
create function relayforge.load_secrets(p_now timestamptz default clock_timestamp())
returns table (id uuid, tenant_id uuid, source text, ciphertext bytea, master_key_id text)
language sql stable security definer
set search_path = store, pg_temp
as $$
  select s.id, s.tenant_id, s.source, s.ciphertext, s.master_key_id
    from tenant_provider_secrets s
   where s.retired_at is null or s.retired_at > p_now
   order by s.id desc
$$;
comment on function relayforge.load_secrets is 'All valid secrets, sealed, newest first, for the API''s cache.';
grant execute on function relayforge.load_secrets to relayforge_api;
