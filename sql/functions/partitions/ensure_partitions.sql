-- Makes the partitions that are missing, from the one before now to p_days_ahead days from now. Safe to call at any
-- time from anywhere; returns how many it made. A partition is made as a table and then attached, because
-- PARTITION OF would wait for every open reader of the parent and stop ingest meanwhile.
-- Locks: an advisory lock against its own kind; SHARE UPDATE EXCLUSIVE on the three parents, one after the other.
create function relayforge.ensure_partitions(
  p_interval text default 'day',
  p_days_ahead integer default 14,
  p_now timestamptz default clock_timestamp()
)
returns integer
language plpgsql security definer
set search_path = store, pg_temp
set timezone = 'UTC'
as $$
declare
  -- A database that slept longer than this starts afresh instead of filling the gap: ids come from the present.
  c_longest_gap constant interval := '30 days';
  v_parent text;
  v_child text;
  v_from timestamptz;
  v_to timestamptz;
  v_made integer := 0;
begin
  if p_interval not in ('day', 'week') then
    raise exception 'partition interval must be day or week, not %', p_interval using errcode = 'RF400';
  end if;
  if p_days_ahead not between 1 and 60 then
    raise exception 'partitions are made 1 to 60 days ahead, not %', p_days_ahead using errcode = 'RF400';
  end if;
  perform pg_advisory_xact_lock(hashtextextended('relayforge.ensure_partitions', 0));
  foreach v_parent in array array['webhook_inbox', 'jobs', 'job_log'] loop
    select max(p.to_at) into v_from from relayforge.list_partitions() p where p.parent = v_parent;
    if v_from is null or v_from < p_now - c_longest_gap then
      v_from := date_trunc(p_interval, p_now) - ('1 ' || p_interval)::interval;
    end if;
    while v_from < p_now + make_interval(days => p_days_ahead) loop
      v_to := date_trunc(p_interval, v_from) + ('1 ' || p_interval)::interval;
      v_child := format('%s_p%s', v_parent, to_char(v_from, 'YYYYMMDD'));
      -- jobs are written once more, at their end: half-full pages keep that update HOT.
      execute format('create table store.%I (like store.%I including all) with (fillfactor = %s)',
        v_child, v_parent, case v_parent when 'jobs' then 50 else 100 end);
      execute format('alter table store.%I attach partition store.%I for values from (%L) to (%L)',
        v_parent, v_child, relayforge.uuid7_floor(v_from), relayforge.uuid7_floor(v_to));
      v_made := v_made + 1;
      v_from := v_to;
    end loop;
  end loop;
  return v_made;
end $$;
comment on function relayforge.ensure_partitions is 'Makes missing partitions, p_interval (day or week) each, p_days_ahead days ahead; returns how many. Safe to call at any time.';
grant execute on function relayforge.ensure_partitions to relayforge_dba;
