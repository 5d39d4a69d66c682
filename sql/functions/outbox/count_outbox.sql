-- How many messages wait: exact to 100,000, then the planner's estimate, so that it never costs more than that scan.
create function relayforge.count_outbox()
returns bigint
language plpgsql stable security definer
set search_path = store, pg_temp
as $$
declare
  c_exact_to constant integer := 100000;
  v_count bigint;
begin
  select count(*) into v_count from (select 1 from outbox_messages limit c_exact_to + 1) o;
  if v_count > c_exact_to then
    select greatest(v_count, c.reltuples::bigint) into v_count from pg_class c where c.oid = 'store.outbox_messages'::regclass;
  end if;
  return v_count;
end $$;
comment on function relayforge.count_outbox is 'Messages that wait for the broker: exact to 100,000, then estimated.';
grant execute on function relayforge.count_outbox to relayforge_relay;
