-- Makes the partitions that are missing, from the one before now to p_days_ahead days from now, those in a hole (somebody
-- dropped one; the clock was ahead for a while) included. Safe to call at any time from anywhere; returns how many it made.
-- A partition is made as a table and then attached, because PARTITION OF would wait for every open reader of the parent and
-- stop ingest meanwhile. RF400: a p_now that is not the clock's (owner excepted), or bounds that make no sense.
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
  v_next timestamptz;
  v_starts timestamptz[];
  v_ends timestamptz[];
  v_made integer := 0;
begin
  perform relayforge.check_clock(p_now);
  if p_interval not in ('day', 'week') then
    raise exception 'partition interval must be day or week, not %', p_interval using errcode = 'RF400';
  end if;
  if p_days_ahead not between 1 and 60 then
    raise exception 'partitions are made 1 to 60 days ahead, not %', p_days_ahead using errcode = 'RF400';
  end if;
  perform pg_advisory_xact_lock(relayforge.lock_key('ensure_partitions'));
  foreach v_parent in array array['webhook_inbox', 'jobs', 'job_log'] loop
    select max(p.to_at) filter (where p.from_at <= p_now), array_agg(p.from_at), array_agg(p.to_at)
      into v_from, v_starts, v_ends
      from relayforge.list_partitions() p
     where p.parent = v_parent;
    if v_from is null or v_from < p_now - c_longest_gap then
      v_from := date_trunc(p_interval, p_now) - ('1 ' || p_interval)::interval;
    end if;
    while v_from < p_now + make_interval(days => p_days_ahead) loop
      select max(p.to_at) filter (where p.from_at <= v_from and p.to_at > v_from), min(p.from_at) filter (where p.from_at > v_from)
        into v_to, v_next
        from unnest(v_starts, v_ends) p(from_at, to_at);
      if v_to is not null then
        v_from := v_to;
        continue;
      end if;
      v_to := least(date_trunc(p_interval, v_from) + ('1 ' || p_interval)::interval, v_next);
      v_child := format('%s_p%s', v_parent, to_char(v_from, 'YYYYMMDD'));
      -- Somebody has detached that one, and kept it.
      if to_regclass(format('store.%I', v_child)) is not null then
        v_child := v_child || to_char(clock_timestamp(), '_YYYYMMDDHH24MISS');
      end if;
      -- jobs are written once more, at their end: pages that are less than half full keep that update HOT, also when an
      -- old snapshot keeps the first version (it is a little larger; at 50 a tenth had no room).
      execute format('create table store.%I (like store.%I including all) with (fillfactor = %s)',
        v_child, v_parent, case v_parent when 'jobs' then 45 else 100 end);
      execute format('alter table store.%I attach partition store.%I for values from (%L) to (%L)',
        v_parent, v_child, relayforge.uuid7_floor(v_from), relayforge.uuid7_floor(v_to));
      v_made := v_made + 1;
      v_from := v_to;
    end loop;
  end loop;
  return v_made;
end $$;
comment on function relayforge.ensure_partitions is 'Makes missing partitions, p_interval (day or week) each, p_days_ahead days ahead, those in a hole included; returns how many. Safe to call at any time.';
grant execute on function relayforge.ensure_partitions to relayforge_dba;
