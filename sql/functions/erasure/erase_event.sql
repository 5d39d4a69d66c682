-- Erases one event, by its id or that of any of its deliveries: see erase_events for what goes and what stays. Copies outside of this database (the broker, whoever
-- listens to its topic exchange, backups) are not reached. Returns how many deliveries were erased: 0 if it was done
-- before and none has come since. RF404: no such event. RF400: no reason.
create function relayforge.erase_event(
  p_event_id uuid,
  p_reason text,
  p_actor text default session_user,
  p_now timestamptz default clock_timestamp()
)
returns bigint
language plpgsql security definer
set search_path = store, pg_temp
as $$
declare
  v_event_id uuid;
  v_erased bigint;
begin
  -- Whoever was answered as a duplicate may have the id of that delivery.
  v_event_id := coalesce((select i.event_id from webhook_inbox i where i.id = p_event_id), p_event_id);
  if not exists (select 1 from webhook_inbox i where i.id = v_event_id or (i.event_id = v_event_id and i.event_id <> i.id))
     and not exists (select 1 from jobs j where j.event_id = v_event_id) then
    raise exception 'event % does not exist', coalesce(p_event_id::text, 'null') using errcode = 'RF404';
  end if;
  v_erased := relayforge.erase_events(array[v_event_id], p_now);
  perform relayforge.write_audit(
    p_actor, 'erase_event', 'event/' || v_event_id, p_reason, jsonb_build_object('deliveries', v_erased));
  return v_erased;
end $$;
comment on function relayforge.erase_event is 'Erases body, headers, trace context and errors of one event and cancels its open jobs; returns how many deliveries were erased, 0 if it was done before and none has come since. Copies outside of this database are not reached. Audited, with the reason.';
grant execute on function relayforge.erase_event to relayforge_dba;
