-- The one entry point of upkeep: makes partitions ahead, gives up expired jobs, drops what is past its retention,
-- purges ledger, replays, quota, rejections and traffic. In many short transactions, so it cannot be called inside one.
-- Services call it every minute; `call relayforge.maintain();` does the same from psql or pg_cron, at any time, beside
-- them. With p_not_within it does nothing if another run began less than that ago. p_done and p_failed come back with
-- what was done and what was not, for people; a step that fails stops no other, and is tried again by the next run.
-- Rights of the caller: each step is a function of the owner's.
create procedure relayforge.maintain(
  p_not_within interval default '0',
  inout p_done text[] default null,
  inout p_failed text[] default null,
  p_now timestamptz default clock_timestamp()
)
language plpgsql
as $$
declare
  -- 5,000,000 rows, or 10 GiB of the ledger: what is left is for the next run.
  c_rounds constant integer := 1000;
  v_step text;
  v_more boolean;
  v_done text;
begin
  p_done := '{}';
  p_failed := '{}';
  select s.more, s.done into v_more, v_done from relayforge.upkeep_step('begin', p_not_within, p_now) s;
  commit;
  if not v_more then
    p_done := array_remove(array[v_done], null);
    return;
  end if;
  foreach v_step in array array['partitions', 'expire', 'drop', 'ledger', 'replays', 'quota', 'rejections', 'traffic', 'dead_jobs', 'audit'] loop
    for v_round in 1..c_rounds loop
      begin
        select s.more, s.done into v_more, v_done from relayforge.upkeep_step(v_step, '0', p_now) s;
        p_done := p_done || v_done;
      exception when others then
        v_more := false;
        p_failed := p_failed || format('%s: %s (%s)', v_step, sqlerrm, sqlstate);
      end;
      commit;
      exit when not v_more;
    end loop;
  end loop;
  p_done := array_remove(p_done, null);
end $$;
comment on procedure relayforge.maintain is 'Upkeep: partitions, expiry, retention, purges, in short transactions: not inside one. Safe to call at any time from psql or pg_cron, beside api and relay, which see to it every minute. p_done and p_failed come back with what was done and what was not.';
grant execute on procedure relayforge.maintain to relayforge_api, relayforge_relay, relayforge_dba;
