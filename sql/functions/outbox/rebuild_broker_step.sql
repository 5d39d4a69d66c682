-- One step of rebuild_broker: looks at up to p_limit open jobs after p_after, in the order of their ids, and writes the
-- message of each that waits for one: queued, retrying, or held until a time. One that has its message in the outbox is
-- passed over, unless it is claimed just now: its relay may have had it confirmed by the queue that is gone. Comes back with
-- the last job looked at (null at the end) and the number of messages written. RF400: another isolation level.
-- Locks: an advisory one, so that two who find the same queue gone write each message once.
create function relayforge.rebuild_broker_step(
  p_after uuid default '00000000-0000-0000-0000-000000000000',
  p_limit integer default 20000,
  p_now timestamptz default clock_timestamp()
)
returns table (last_job_id uuid, written integer)
language plpgsql security definer
set search_path = store, pg_temp
as $$
#variable_conflict use_column
declare
  v_job_ids uuid[];
  v_written integer;
  v_running xid[];
begin
  -- Each statement must see what is committed when it begins, or a claim that ends in between would look as if it had not.
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'rebuild_broker needs the isolation level read committed, not %', current_setting('transaction_isolation')
      using errcode = 'RF400';
  end if;
  perform pg_advisory_xact_lock(relayforge.lock_key('rebuild_broker'));
  -- Before the look at the outbox: a claim that begins after this is published after the queue was found gone.
  select coalesce(array_agg(l.transactionid), '{}') into v_running from pg_locks l where l.locktype = 'transactionid' and l.granted;
  select array_agg(q.job_id order by q.job_id) into v_job_ids
    from (select o.job_id from open_jobs o where o.job_id > p_after order by o.job_id limit p_limit) q;

  insert into outbox_messages (id, target, job_id, event_id, attempt, next_attempt_at)
  select relayforge.uuid7(p_now, 0), case o.state when 'queued' then 'jobs' else 'retries' end,
         o.job_id, j.event_id, o.attempt, greatest(o.due_at, p_now)
    from open_jobs o
    join jobs j on j.id = o.job_id
   where o.job_id = any (v_job_ids)
     and o.state <> 'processing' and o.due_at < 'infinity'
     and not exists (
       select 1
         from outbox_messages m
        where m.job_id = o.job_id and m.attempt = o.attempt and m.target in ('jobs', 'retries') and m.xmax <> all (v_running));
  get diagnostics v_written = row_count;
  return query
  select case when cardinality(v_job_ids) = p_limit then v_job_ids[p_limit] end, v_written;
end $$;
comment on function relayforge.rebuild_broker_step is 'One step of rebuild_broker: writes the messages of up to p_limit open jobs after p_after that wait for one; returns the last job looked at, null at the end, and how many messages were written.';
grant execute on function relayforge.rebuild_broker_step to relayforge_relay, relayforge_consumer, relayforge_dba;
