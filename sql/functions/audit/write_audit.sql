-- Writes one row of the audit log, in the transaction of the change it tells of. The actor is who the caller says, the
-- database role that is logged in stands beside it; the time is the clock's, whatever time the caller works at. RF400: no reason, or no actor. Not granted to anybody.
create function relayforge.write_audit(
  p_actor text,
  p_action text,
  p_target text,
  p_reason text,
  p_detail jsonb
)
returns void
language plpgsql
set search_path = store, pg_temp
as $$
begin
  if coalesce(p_reason, '') !~ '\S' or length(trim(p_reason)) > 2000 then
    raise exception 'a reason of 1 to 2,000 characters is required' using errcode = 'RF400';
  end if;
  if coalesce(p_actor, '') !~ '\S' or length(trim(p_actor)) > 200 then
    raise exception 'an actor of 1 to 200 characters is required' using errcode = 'RF400';
  end if;
  insert into admin_audit_log (id, actor, db_user, action, target, reason, detail)
  values (relayforge.uuid7(clock_timestamp(), 0), trim(p_actor), session_user, p_action, p_target, trim(p_reason), p_detail);
end $$;
comment on function relayforge.write_audit is 'Writes one row of the audit log, in the transaction of the change it tells of.';
