-- Removes what set_retry_policy said of exactly this tenant and source; returns whether anything was said. RF404: no such
-- tenant (slug or id) or source. RF400: no reason.
create function relayforge.remove_retry_policy(
  p_tenant text,
  p_source text,
  p_reason text,
  p_actor text default session_user
)
returns boolean
language plpgsql security definer
set search_path = store, pg_temp
as $$
declare
  v_tenant_id uuid;
  v_removed jsonb;
begin
  v_tenant_id := relayforge.policy_tenant(p_tenant, p_source);
  delete from retry_policies r
   where r.tenant_id is not distinct from v_tenant_id and r.source is not distinct from p_source
  returning to_jsonb(r) into v_removed;
  perform relayforge.write_audit(
    p_actor, 'remove_retry_policy', format('retry_policy/%s/%s', coalesce(v_tenant_id::text, '*'), coalesce(p_source, '*')),
    p_reason, coalesce(v_removed, '{}'));
  return v_removed is not null;
end $$;
comment on function relayforge.remove_retry_policy is 'Removes the retry policy of exactly this tenant and source; returns whether there was one. Audited, with the reason.';
grant execute on function relayforge.remove_retry_policy to relayforge_dba;
