-- Takes over jobs whose lease has run out: their consumer died, froze or lost its database. Each is put in the outbox
-- again as its next attempt (a lost run is no failure: it takes nothing from the budget), or dead-lettered as poison
-- after so many runs in a row without an outcome as its last consumer allows (p_max_starts, where given, instead). Any process
-- may call it; an advisory lock lets one at a time work, the others get zeros, and so do all if leases were swept less than
-- p_not_within ago. If nobody has swept for a while, the database was away or its clock has jumped: then nothing is taken over
-- for five times p_not_within, in which runs that are alive renew their leases. At most p_limit jobs a call.
-- Locks: open_jobs by id; a row that somebody holds is left for the next call.
create function relayforge.sweep_leases(
  p_limit integer,
  p_max_starts integer default null,
  p_now timestamptz default clock_timestamp(),
  p_not_within interval default '0'
)
returns table (rescued integer, poisoned integer)
language plpgsql security definer
set search_path = store, pg_temp
as $$
#variable_conflict use_column
declare
  -- The number of an attempt is a smallint: a job that is rescued for ever ends here.
  c_last_attempt constant smallint := 32000;
  -- Longer than any process that sweeps pauses by itself.
  c_while constant interval := '10 seconds';
  v_swept_at timestamptz;
  v_resumed_at timestamptz;
  v_rescued uuid[];
  v_poisoned uuid[];
  v_reasons text[];
begin
  if not pg_try_advisory_xact_lock(relayforge.lock_key('sweep_leases')) then
    return query select 0, 0;
    return;
  end if;
  if p_not_within > '0' then
    select s.swept_at, s.resumed_at into v_swept_at, v_resumed_at from sweeps s;
    if v_swept_at > p_now - p_not_within and v_swept_at <= p_now then
      return query select 0, 0;
      return;
    end if;
    if v_swept_at is null or v_swept_at > p_now or v_swept_at < p_now - greatest(p_not_within * 5, c_while) then
      v_resumed_at := p_now;
    end if;
    insert into sweeps (swept_at, resumed_at) values (p_now, v_resumed_at)
    on conflict (singleton) do update set swept_at = excluded.swept_at, resumed_at = excluded.resumed_at;
    if p_now < v_resumed_at + p_not_within * 5 then
      return query select 0, 0;
      return;
    end if;
  end if;
  select array_agg(q.job_id) filter (where not q.is_poison),
         array_agg(q.job_id) filter (where q.is_poison),
         array_agg(format('%s runs in a row ended without an outcome', q.starts)) filter (where q.is_poison)
    into v_rescued, v_poisoned, v_reasons
    from (
      select o.job_id, o.starts, o.starts >= coalesce(p_max_starts, o.max_starts) or o.attempt >= c_last_attempt as is_poison
        from open_jobs o
       where o.state = 'processing' and o.lease_until < p_now
       order by o.job_id
       limit p_limit
         for no key update skip locked
    ) q;

  perform relayforge.requeue_runs(v_rescued, 'the lease of run %s ran out', false, p_now);
  if v_poisoned is not null then
    perform relayforge.dead_letter_jobs(
      v_poisoned, array_fill('poison'::text, array[cardinality(v_poisoned)]), v_reasons, p_now);
  end if;
  return query select coalesce(cardinality(v_rescued), 0), coalesce(cardinality(v_poisoned), 0);
end $$;
comment on function relayforge.sweep_leases is 'Takes over jobs whose lease has run out; returns how many it put in the outbox again and how many it gave up as poison. Zeros if another process sweeps just now, or has less than p_not_within ago.';
grant execute on function relayforge.sweep_leases to relayforge_consumer, relayforge_relay;
