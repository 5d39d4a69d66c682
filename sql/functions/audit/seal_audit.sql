-- Seals what is committed of the audit log and has no seal yet, oldest first: each seal hashes the one before, so that a
-- row that is changed, taken out or put in between later does not fit any more (see audit_verify). The API calls it every
-- five seconds, upkeep once a minute. Rows older than the last sealed one by more than p_lookback (of a transaction that
-- was open for so long) wait for upkeep's hourly pass, which looks at all: null.
-- Returns how many rows were sealed, and the chain's end: whoever keeps that elsewhere, a log for example, can show that
-- the whole chain was not made anew. Nothing if another process is at it.
create function relayforge.seal_audit(
  p_lookback interval default '1 hour',
  p_limit integer default 1000,
  out sealed integer,
  out seq bigint,
  out digest text
)
language plpgsql security definer
set search_path = store, pg_temp
as $$
#variable_conflict use_column
declare
  v_seq bigint;
  v_digest bytea;
  v_floor uuid;
  v_row admin_audit_log;
begin
  sealed := 0;
  if not pg_try_advisory_xact_lock(relayforge.lock_key('audit')) then
    return;
  end if;
  -- The clock may have been ahead when the last one was written.
  select s.seq, s.digest, relayforge.uuid7_floor(least(relayforge.uuid7_time(s.audit_id), clock_timestamp()) - p_lookback)
    into v_seq, v_digest, v_floor
    from audit_seals s
   order by s.seq desc
   limit 1;
  v_seq := coalesce(v_seq, 0);
  v_digest := coalesce(v_digest, '');
  for v_row in
    select a.*
      from admin_audit_log a
     where (v_floor is null or a.id >= v_floor)
       and not exists (select from audit_seals s where s.audit_id = a.id)
     order by a.id
     limit p_limit
  loop
    v_seq := v_seq + 1;
    v_digest := relayforge.audit_digest(v_digest, v_row);
    insert into audit_seals (seq, audit_id, digest) values (v_seq, v_row.id, v_digest);
    sealed := sealed + 1;
  end loop;
  seq := v_seq;
  digest := encode(v_digest, 'hex');
end $$;
comment on function relayforge.seal_audit is 'Seals what is committed of the audit log into a hash chain; returns how many rows, and the chain''s end.';
grant execute on function relayforge.seal_audit to relayforge_api;
