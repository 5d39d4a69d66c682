-- What seals a row of the audit log: SHA-256 over the digest of the seal before (nothing for the first) and the row as a
-- JSON array of its columns, as jsonb prints it. Not granted to anybody.
create function relayforge.audit_digest(p_previous bytea, p_row store.admin_audit_log)
returns bytea
language sql immutable
set search_path = store, pg_temp
as $$
  select sha256(p_previous || convert_to(
    jsonb_build_array(
      p_row.id, p_row.actor, p_row.db_user, p_row.action, p_row.target, p_row.reason, p_row.detail)::text,
    'UTF8'))
$$;
comment on function relayforge.audit_digest is 'SHA-256 over the digest of the seal before and a row of the audit log.';
