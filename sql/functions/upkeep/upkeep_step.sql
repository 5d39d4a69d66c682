-- One bounded step of upkeep in the caller's transaction; relayforge.maintain calls them in turn. Returns whether there
-- is more of the same to do, and what was done, for people. False too if another process is at it.
--   begin        claims this run; more = false if the last one began less than p_not_within ago
--   partitions   makes partitions ahead
--   expire       gives up jobs whose event is about to go, 1,000 a step
--   drop         drops one partition that is past its retention
--   ledger, replays                        an hourly pass, 256 pages of each table a step
--   quota, rejections, traffic, dead_jobs  an hourly pass, 5,000 rows a step
--   audit        seals the audit log, an hourly pass over all of it
-- Nothing is expired, dropped or purged for an hour after more than a day without a run, by this clock: it may be wrong, and
-- what is dropped is gone. RF400: a step of another name, or a p_now that is not the clock's (owner excepted).
create function relayforge.upkeep_step(
  p_step text,
  p_not_within interval default '0',
  p_now timestamptz default clock_timestamp()
)
returns table (more boolean, done text)
language plpgsql security definer
set search_path = store, pg_temp
set timezone = 'UTC'
as $$
#variable_conflict use_column
declare
  c_pages constant integer := 256;
  c_rows constant integer := 5000;
  c_jobs constant integer := 1000;
  c_seals constant integer := 1000;
  c_pass_every constant interval := '1 hour';
  c_caution constant interval := '1 hour';
  c_undoable constant text[] := array['begin', 'partitions', 'audit'];
  -- Minutes are for the last hours' charts; days are in tenant_daily_quota_usage.
  c_traffic_kept constant interval := '2 days';
  v_upkeep upkeep%rowtype;
  v_relations text[];
  v_relation text;
  v_parent text;
  v_read text[];
  v_ended boolean := true;
  v_passed boolean;
  v_count bigint;
  v_floor uuid;
  v_kept_from timestamptz;
begin
  perform relayforge.check_clock(p_now);
  -- One process at a time. Held to the end of this step only, so that nobody who dies or forgets keeps it.
  if not pg_try_advisory_xact_lock(relayforge.lock_key('upkeep')) then
    return query select false, 'another process is at it'::text;
    return;
  end if;
  select u.* into v_upkeep from upkeep u;
  v_kept_from := p_now - make_interval(days => v_upkeep.jobs_days);
  v_passed := exists (
    select 1 from purge_positions p where p.relation = p_step and p.pass_ended_at between p_now - c_pass_every and p_now);

  if p_step = 'begin' then
    update upkeep u
       set last_run_at = p_now,
           cautious_until = case when u.last_run_at < p_now - interval '1 day' then p_now + c_caution
                                 -- The clock was set back.
                                 when u.cautious_until > p_now + c_caution then p_now + c_caution
                                 else u.cautious_until end
     where u.last_run_at is null or u.last_run_at <= p_now - p_not_within
        -- The clock was set back.
        or u.last_run_at > p_now;
    return query select found, null::text;

  elsif v_upkeep.cautious_until > p_now and p_step <> all (c_undoable) then
    return query select false, case when p_step = 'expire' then
      format('nothing is expired, dropped or purged before %s: the clock has jumped, or a retention was shortened',
             date_trunc('second', v_upkeep.cautious_until)) end;

  elsif p_step = 'partitions' then
    v_count := relayforge.ensure_partitions(v_upkeep.partition_interval, v_upkeep.days_ahead, p_now);
    return query select false, case when v_count > 0 then format('%s partitions made', v_count) end;

  elsif p_step = 'expire' then
    v_count := relayforge.expire_jobs(v_upkeep.inbox_days, c_jobs, p_now);
    return query select v_count = c_jobs, case when v_count > 0 then format('%s jobs expired', v_count) end;

  elsif p_step = 'drop' then
    foreach v_parent in array array['webhook_inbox', 'jobs', 'job_log'] loop
      begin
        v_relation := relayforge.drop_old_partition(v_upkeep.inbox_days, v_upkeep.jobs_days, array[v_parent], p_now);
        if v_relation is not null then
          return query select true, v_relation || ' dropped';
          return;
        end if;
      exception when lock_not_available then
        v_read := v_read || v_parent;
      end;
    end loop;
    return query select false, 'a partition is due to be dropped, but somebody reads ' || array_to_string(v_read, ', ');

  elsif p_step in ('ledger', 'replays') then
    if p_step = 'ledger' then
      select array_agg(c.relname::text) into v_relations
        from pg_inherits i join pg_class c on c.oid = i.inhrelid
       where i.inhparent = 'dedup_ledger'::regclass;
    else
      v_relations := array['stripe_event_idempotency', 'rejected_replays'];
    end if;
    -- A key is kept as long as its event, for event_of, even when ingest takes it for free by then.
    v_floor := relayforge.uuid7_floor(
      p_now - greatest(v_upkeep.dedup_window, make_interval(days => v_upkeep.inbox_days)));
    for v_relation in
      select r.name
        from unnest(v_relations) r(name)
        left join purge_positions p on p.relation = r.name
       where p.page > 0 or p.pass_ended_at is null or not p.pass_ended_at between p_now - c_pass_every and p_now
    loop
      v_ended := relayforge.purge_pages(
        v_relation, c_pages, v_floor, relayforge.uuid7_floor(p_now - v_upkeep.hash_window), p_now) and v_ended;
    end loop;
    return query select not v_ended, null::text;

  elsif p_step = 'audit' then
    -- What is not sealed within seconds was written by a transaction that stayed open, and is rare.
    -- Oldest first: what a pass leaves is newer than what it has sealed last, so that the next call finds it. No pass was
    -- made if another process is at it.
    select s.sealed, s.seq is not null into v_count, v_ended
      from relayforge.seal_audit(case when v_passed then c_pass_every end, c_seals) s;
    if v_ended and not v_passed then
      insert into purge_positions (relation, page, pass_ended_at) values (p_step, 0, p_now)
      on conflict (relation) do update set pass_ended_at = excluded.pass_ended_at;
    end if;
    return query select v_count = c_seals, null::text;

  elsif p_step in ('quota', 'rejections', 'traffic', 'dead_jobs') then
    if v_passed then
      return query select false, null::text;
      return;
    end if;
    case p_step
      when 'quota' then
        delete from tenant_daily_quota_usage where ctid = any (array(
          select q.ctid from tenant_daily_quota_usage q where q.day < v_kept_from::date limit c_rows for update skip locked));
      when 'rejections' then
        delete from webhook_rejections where ctid = any (array(
          select r.ctid from webhook_rejections r where r.hour < v_kept_from limit c_rows for update skip locked));
      when 'traffic' then
        delete from traffic_minutes where ctid = any (array(
          select m.ctid from traffic_minutes m where m.minute < p_now - c_traffic_kept limit c_rows for update skip locked));
      when 'dead_jobs' then
        delete from dead_jobs where ctid = any (array(
          select d.ctid from dead_jobs d
           where d.job_id < (select relayforge.uuid7_floor(min(p.from_at)) from relayforge.list_partitions() p where p.parent = 'jobs')
           limit c_rows for update skip locked));
    end case;
    get diagnostics v_count = row_count;
    if v_count < c_rows then
      insert into purge_positions (relation, page, pass_ended_at) values (p_step, 0, p_now)
      on conflict (relation) do update set pass_ended_at = excluded.pass_ended_at;
    end if;
    return query select v_count = c_rows, case when v_count > 0 then format('%s rows of %s purged', v_count, p_step) end;

  else
    raise exception 'upkeep has no step %', p_step using errcode = 'RF400';
  end if;
end $$;
comment on function relayforge.upkeep_step is 'One bounded step of upkeep in the caller''s transaction; call relayforge.maintain instead.';
grant execute on function relayforge.upkeep_step to relayforge_api, relayforge_relay, relayforge_dba;
