-- Takes over jobs whose lease has run out: their consumer died, froze or lost its database. Each is put in the outbox
-- again as its next attempt (a lost run is no failure: it takes nothing from the budget), or dead-lettered as poison
-- after p_max_starts runs in a row without an outcome. Any process may call it; an advisory lock lets one at a time
-- work, the others get zeros. At most p_limit jobs a call.
-- Locks: open_jobs by id; a row that somebody holds is left for the next call.
create function relayforge.sweep_leases(
  p_limit integer,
  p_max_starts integer,
  p_now timestamptz default clock_timestamp()
)
returns table (rescued integer, poisoned integer)
language plpgsql security definer
set search_path = store, pg_temp
as $$
#variable_conflict use_column
declare
  -- The number of an attempt is a smallint: a job that is rescued for ever ends here.
  c_last_attempt constant smallint := 32000;
  v_rescued uuid[];
  v_poisoned uuid[];
begin
  if not pg_try_advisory_xact_lock(relayforge.lock_key('sweep_leases')) then
    return query select 0, 0;
    return;
  end if;
  select array_agg(q.job_id) filter (where q.starts < p_max_starts and q.attempt < c_last_attempt),
         array_agg(q.job_id) filter (where q.starts >= p_max_starts or q.attempt >= c_last_attempt)
    into v_rescued, v_poisoned
    from (
      select o.job_id, o.starts, o.attempt
        from open_jobs o
       where o.state = 'processing' and o.lease_until < p_now
       order by o.job_id
       limit p_limit
         for no key update skip locked
    ) q;

  insert into job_log (id, job_id, what, attempt, detail)
  select relayforge.uuid7(p_now, 0), o.job_id, 'rescued', o.attempt, 'the lease of run ' || o.run_id || ' ran out'
    from open_jobs o
   where o.job_id = any (v_rescued);
  with requeued as (
    update open_jobs o
       set state = 'retrying', attempt = o.attempt + 1, attempt_base = o.attempt_base + 1,
           run_id = null, lease_until = null, due_at = p_now
     where o.job_id = any (v_rescued)
    returning o.job_id, o.attempt
  )
  insert into outbox_messages (id, target, job_id, event_id, attempt, next_attempt_at)
  select relayforge.uuid7(p_now, 0), 'jobs', r.job_id, j.event_id, r.attempt, p_now
    from requeued r
    join jobs j on j.id = r.job_id;

  if v_poisoned is not null then
    perform relayforge.dead_letter_jobs(
      v_poisoned,
      array_fill('poison'::text, array[cardinality(v_poisoned)]),
      array_fill(format('%s runs in a row ended without an outcome', p_max_starts), array[cardinality(v_poisoned)]),
      p_now);
  end if;
  return query select coalesce(cardinality(v_rescued), 0), coalesce(cardinality(v_poisoned), 0);
end $$;
comment on function relayforge.sweep_leases is 'Takes over jobs whose lease has run out; returns how many it put in the outbox again and how many it gave up as poison.';
grant execute on function relayforge.sweep_leases to relayforge_consumer;
