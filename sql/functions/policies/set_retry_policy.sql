-- Says how often and how soon failed jobs of a tenant, a source, both, or (null, null) everybody are tried again, in place
-- of what was said before; null leaves a field to the next wider row, and at last to the consumers' configuration. Counts
-- from the next failure on, also of jobs that have failed before. RF404: no such tenant (slug or id) or source. RF400: no
-- reason, or no field. 23514 names the bound that a value breaks.
create function relayforge.set_retry_policy(
  p_tenant text,
  p_source text,
  p_reason text,
  p_max_attempts integer default null,
  p_backoff_base interval default null,
  p_backoff_cap interval default null,
  p_jitter double precision default null,
  p_actor text default session_user
)
returns void
language plpgsql security definer
set search_path = store, pg_temp
as $$
declare
  v_tenant_id uuid;
begin
  v_tenant_id := relayforge.policy_tenant(p_tenant, p_source);
  if num_nonnulls(p_max_attempts, p_backoff_base, p_backoff_cap, p_jitter) = 0 then
    raise exception 'a retry policy says at least one of max_attempts, backoff_base, backoff_cap, jitter'
      using errcode = 'RF400', hint = 'relayforge.remove_retry_policy removes one';
  end if;
  -- The column is too small to say so by its own bound.
  if p_max_attempts > 32767 or p_max_attempts < -32768 then
    raise exception 'max_attempts is between 1 and 1000, not %', p_max_attempts
      using errcode = '23514', constraint = 'retry_policies_max_attempts_bounds';
  end if;
  insert into retry_policies (tenant_id, source, max_attempts, backoff_base, backoff_cap, jitter)
  values (v_tenant_id, p_source, p_max_attempts, p_backoff_base, p_backoff_cap, p_jitter)
  on conflict (tenant_id, source) do update
     set max_attempts = excluded.max_attempts, backoff_base = excluded.backoff_base, backoff_cap = excluded.backoff_cap,
         jitter = excluded.jitter, updated_at = clock_timestamp();
  perform relayforge.write_audit(
    p_actor, 'set_retry_policy', format('retry_policy/%s/%s', coalesce(v_tenant_id::text, '*'), coalesce(p_source, '*')), p_reason,
    jsonb_build_object('max_attempts', p_max_attempts, 'backoff_base', p_backoff_base, 'backoff_cap', p_backoff_cap,
                       'jitter', p_jitter));
end $$;
comment on function relayforge.set_retry_policy is 'Says how often and how soon failed jobs of a tenant, a source, both or (null, null) everybody are tried again; a null field is left to the next wider policy, and at last to the consumers'' configuration. Counts from the next failure on. Audited, with the reason.';
grant execute on function relayforge.set_retry_policy to relayforge_dba;
