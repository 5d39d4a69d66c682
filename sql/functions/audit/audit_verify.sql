-- Walks the hash chain over the audit log from its first seal and names the first break. With the end of the chain as it
-- once was (p_seq, p_digest: the API logs it whenever it seals), also that the chain was not made anew up to there.
-- Returns one row: rows that fit, rows without a seal (seconds old, or of a service that is down), the chain's end, and
-- of the first break its place, the id of its audit row, and what does not fit; null if all fits.
-- late counts rows whose time is a minute or more before that of one sealed earlier: of transactions that were open for so
-- long, or put in later under an earlier date. RF400: one of p_seq and p_digest without the other.
create function relayforge.audit_verify(
  p_seq bigint default null,
  p_digest text default null,
  out verified bigint,
  out unsealed bigint,
  out seq bigint,
  out digest text,
  out broken_seq bigint,
  out broken_id uuid,
  out broken_why text,
  out late bigint
)
language plpgsql stable security definer
set search_path = store, pg_temp
as $$
#variable_conflict use_column
declare
  v_digest bytea := '';
  v_newest timestamptz := '-infinity';
  v_at timestamptz;
  v_seal record;
begin
  if num_nulls(p_seq, p_digest) = 1 then
    raise exception 'an earlier end of the chain is a place and a digest' using errcode = 'RF400';
  end if;
  verified := 0;
  late := 0;
  select count(*) into unsealed
    from admin_audit_log a
   where not exists (select from audit_seals s where s.audit_id = a.id);
  select s.seq, encode(s.digest, 'hex') into seq, digest from audit_seals s order by s.seq desc limit 1;
  for v_seal in
    select s.seq, s.audit_id, s.digest, a as audit, a.id is not null as is_there
      from audit_seals s
      left join admin_audit_log a on a.id = s.audit_id
     order by s.seq
  loop
    broken_why := case when v_seal.seq <> verified + 1 then format('seal %s is gone', verified + 1)
                       when not v_seal.is_there then 'its row is gone' end;
    if broken_why is null then
      v_digest := relayforge.audit_digest(v_digest, v_seal.audit);
      broken_why := case when v_digest <> v_seal.digest then 'the row or its seal was changed'
                         when v_seal.seq = p_seq and lower(p_digest) <> encode(v_digest, 'hex') then 'the chain was made anew' end;
    end if;
    if broken_why is not null then
      broken_seq := v_seal.seq;
      broken_id := v_seal.audit_id;
      return;
    end if;
    verified := v_seal.seq;
    v_at := relayforge.uuid7_time(v_seal.audit_id);
    if v_at < v_newest - interval '1 minute' then
      late := late + 1;
    end if;
    v_newest := greatest(v_newest, v_at);
  end loop;
  if p_seq > verified then
    broken_seq := verified + 1;
    broken_why := format('seals %s to %s are gone', verified + 1, p_seq);
  end if;
end $$;
comment on function relayforge.audit_verify is 'Walks the hash chain over the audit log and names the first break; null if all fits. With an earlier end of the chain (from the API''s log), also that it was not made anew.';
grant execute on function relayforge.audit_verify to relayforge_dba;
