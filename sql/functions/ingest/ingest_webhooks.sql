-- Takes in N verified webhooks and answers each, in one transaction: replay, dedup, quota, inbox, job, outbox.
-- All arrays are of one length; one row comes back for each element, in order.
--
-- Outcomes: accepted; duplicate (the first ids, no job, no quota); replay (the first ids, counted by event);
-- over_quota (nothing stored, the dedup key stays free, retry_after_seconds until UTC midnight);
-- unknown_tenant, suspended, unknown_source, event_id_required (nothing stored).
-- Where the tenant's quota_policy is hold, up to one further quota is accepted, and its jobs are held until midnight.
--
-- Locks, in this order: quota rows by tenant, replay rows by key, ledger rows by digest; then only inserts. A quota row
-- held by somebody else ends in 55P03 after the role's lock_timeout, and the API retries tenant by tenant.
-- The id of a delivery is made before it is known to be new: the ledger row that carries it names the fresh one.
--
-- What nearly every batch is (new events of tenants and sources that exist, with room in the quota) takes the short way:
-- an array that is null stands for "none", and v_outcomes for "all accepted". Elements are reached by their subscript, because
-- unnest copies all of an array on each pass. Plans are generic: planning anew cost more than running. A batch of one tenant
-- and source has them looked up once.
--
-- p_body_sha256s and p_digests are what sha256 and dedup_digest would make of each element; where they are null, they do.
-- p_expect_new is a guess, and changes the cost alone: that each event is new. Where it was wrong, each row says so: the key of
-- an event may be known also where the event is accepted (it had expired) or refused.
create function relayforge.ingest_webhooks(
  p_tenant_ids uuid[],
  p_sources text[],
  p_provider_event_ids text[],
  p_event_types text[],
  p_bodies bytea[],
  p_headers jsonb[],
  p_signature_timestamps timestamptz[],
  p_secret_ids uuid[],
  p_correlation_ids text[],
  p_trace_contexts jsonb[],
  p_default_daily_quota bigint,
  p_dedup_window interval,
  p_hash_window interval,
  p_now timestamptz default clock_timestamp(),
  p_body_sha256s bytea[] default null,
  p_digests bytea[] default null,
  p_expect_new boolean default false
)
returns table (outcome text, inbox_id uuid, event_id uuid, job_id uuid, retry_after_seconds integer, guessed_wrong boolean)
language plpgsql security definer
set search_path = store, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  -- Differing bodies of duplicates that are kept of one event: they cost no quota, so they need a bound of their own.
  c_bodies_per_event constant integer := 16;
  v_count constant integer := cardinality(p_tenant_ids);
  v_stamp constant text := relayforge.uuid7_stamp(p_now);
  v_seed constant bigint := relayforge.uuid7_seed();
  v_day constant date := (p_now at time zone 'UTC')::date;
  v_midnight constant timestamptz := (v_day + 1)::timestamp at time zone 'UTC';
  v_id_floor constant uuid := rpad(relayforge.uuid7_stamp(p_now - p_dedup_window), 32, '0');
  v_hash_floor constant uuid := rpad(relayforge.uuid7_stamp(p_now - p_hash_window), 32, '0');
  -- One element per webhook, in arrival order.
  v_ids uuid[];
  v_new_job_ids uuid[];
  v_hashes bytea[];
  v_dedup_keys text[];
  v_digests bytea[];
  v_job_kinds text[];
  v_event_ids uuid[];
  v_job_ids uuid[];
  -- The same; null where no webhook has one.
  v_refusals text[];
  v_replay_keys text[];
  v_replay_policies text[];
  v_fanouts boolean[];
  -- The same; null where each webhook is fresh, and accepted.
  v_fresh boolean[];
  v_outcomes text[];
  v_stored_timestamps timestamptz[];
  -- Tenants whose quota is charged, with their rows of today.
  v_tenants uuid[];
  v_quota_rows tid[];
  v_quota_used bigint[];
  v_quotas bigint[];
  -- Whether the batch is of one tenant and source that refuse nothing and deduplicate, and absorb replays.
  v_short boolean;
  -- Sets and numbers.
  v_over_quota uuid[];
  v_held uuid[];
  v_keys integer;
  v_put integer;
  v_known boolean := false;
  v_guessed_wrong boolean := false;
  v_exceeded boolean;
begin
  -- What each webhook is, by the present configuration (the API's copy may be a second old).
  if p_tenant_ids[1] = all (p_tenant_ids) and p_sources[1] = all (p_sources)
     and cardinality(p_body_sha256s) = v_count and array_position(p_body_sha256s, null) is null
     and cardinality(p_digests) = v_count and array_position(p_digests, null) is null then
    select t.status = 'active' and s.replay_policy = 'absorb' and s.dedup <> 'none'
           and (s.dedup <> 'event_id' or array_position(p_provider_event_ids, null) is null),
           array_fill(s.job_kind, array[v_count]), case when s.fanout then array_fill(true, array[v_count]) end,
           array[coalesce(t.daily_quota, p_default_daily_quota)]
      into v_short, v_job_kinds, v_fanouts, v_quotas
      from tenants t cross join sources s
     where t.id = p_tenant_ids[1] and s.name = p_sources[1];
  end if;
  -- An empty batch warms a connection up, by each way once.
  if coalesce(v_short, v_count = 0 and p_expect_new) then
    v_hashes := p_body_sha256s;
    v_digests := p_digests;
    v_keys := v_count;
    select array_agg(q.id), array_agg(q.job_id), array_agg(q.dedup_key)
      into v_ids, v_new_job_ids, v_dedup_keys
      from (
        select relayforge.uuid7_of(v_stamp, g.ord, relayforge.uuid7_tail(v_seed, g.ord)) as id,
               relayforge.uuid7_of(v_stamp, g.ord, relayforge.uuid7_tail(v_seed, -g.ord)) as job_id,
               relayforge.dedup_key(p_provider_event_ids[g.ord], p_body_sha256s[g.ord]) as dedup_key
          from generate_series(1, v_count) as g(ord)
         order by g.ord
      ) q;
    -- The tenant's quota row, as below.
    v_tenants := p_tenant_ids[1:1];
    select array[u.ctid], array[u.used] into v_quota_rows, v_quota_used
      from tenant_daily_quota_usage u
     where u.tenant_id = p_tenant_ids[1] and u.day between v_day and v_day
     order by u.day desc limit 1
       for no key update;
  else
    select array_agg(q.id), array_agg(q.job_id), array_agg(q.body_sha256), array_agg(q.dedup_key),
           array_agg(coalesce(case when q.dedup_key is not null then p_digests[q.ord] end,
                              relayforge.dedup_digest(q.tenant_id, q.source, q.dedup_key))),
           array_agg(q.job_kind), count(q.dedup_key),
           case when bool_or(q.refusal is not null) then array_agg(q.refusal) end,
           case when bool_or(q.replay_key is not null) then array_agg(q.replay_key) end,
           case when bool_or(q.replay_key is not null) then array_agg(q.replay_policy) end,
           case when bool_or(q.fanout) then array_agg(q.fanout) end
      into v_ids, v_new_job_ids, v_hashes, v_dedup_keys, v_digests, v_job_kinds, v_keys,
           v_refusals, v_replay_keys, v_replay_policies, v_fanouts
      from (
        select i.ord, i.tenant_id, i.source, r.refusal, s.replay_policy, s.job_kind, s.fanout, i.body_sha256,
               relayforge.uuid7_of(v_stamp, i.ord, relayforge.uuid7_tail(v_seed, i.ord)) as id,
               relayforge.uuid7_of(v_stamp, i.ord, relayforge.uuid7_tail(v_seed, -i.ord)) as job_id,
               case when r.refusal is null and s.dedup <> 'none'
                    then relayforge.dedup_key(i.provider_event_id, i.body_sha256) end as dedup_key,
               case when r.refusal is null and s.replay_policy <> 'absorb' then i.provider_event_id end as replay_key
          from (
            select g.ord, p_tenant_ids[g.ord] as tenant_id, p_sources[g.ord] as source,
                   p_provider_event_ids[g.ord] as provider_event_id,
                   coalesce(p_body_sha256s[g.ord], sha256(p_bodies[g.ord])) as body_sha256
              from generate_series(1, v_count) as g(ord)
            -- A subquery of its own, so that each is made once.
            offset 0
          ) i
          left join tenants t on t.id = i.tenant_id
          left join sources s on s.name = i.source
         cross join lateral (
           select case
                    when t.id is null then 'unknown_tenant'
                    when t.status <> 'active' then 'suspended'
                    when s.name is null then 'unknown_source'
                    when s.dedup = 'event_id' and i.provider_event_id is null then 'event_id_required'
                  end as refusal
         ) r
         order by i.ord
      ) q;
  end if;

  -- Quota rows, locked in tenant order, and made before if this is a tenant's first batch of the day. Each is looked for
  -- once, and from the end of its key (a day between itself and itself, so that the order is not lost on the planner):
  -- beside an old snapshot a busy tenant's row has thousands of dead versions, and the last is the one that lives.
  if v_quota_rows is null then
    loop
      select array_agg(q.tenant_id), array_agg(q.ctid), array_agg(q.used), array_agg(q.quota)
        into v_tenants, v_quota_rows, v_quota_used, v_quotas
        from (
          select i.tenant_id, u.ctid, u.used, coalesce(t.daily_quota, p_default_daily_quota) as quota
            from (
              select distinct p_tenant_ids[g.ord] as tenant_id
                from generate_series(1, v_count) as g(ord)
               where v_refusals is null or v_refusals[g.ord] is null
               order by 1
            ) i
            join tenants t on t.id = i.tenant_id
            left join lateral (
              select u.ctid, u.used from tenant_daily_quota_usage u
               where u.tenant_id = i.tenant_id and u.day between v_day and v_day
               order by u.day desc limit 1
                 for no key update
            ) u on true
           order by i.tenant_id
        ) q;
      exit when array_position(v_quota_rows, null) is null;
      insert into tenant_daily_quota_usage (tenant_id, day, used)
      select i.tenant_id, v_day, 0
        from unnest(v_tenants, v_quota_rows) as i(tenant_id, row)
       where i.row is null
       order by i.tenant_id
      on conflict do nothing;
    end loop;
  end if;

  -- Replay rows of events that are known already.
  if v_replay_keys is not null then
    perform 1
       from unnest(p_tenant_ids, p_sources, v_replay_keys) i(tenant_id, source, replay_key)
       join stripe_event_idempotency r
         on r.tenant_id = i.tenant_id and r.source = i.source and r.provider_event_id = i.replay_key
      order by r.tenant_id, r.source, r.provider_event_id
        for no key update of r;
    v_known := found;
  end if;

  -- The ledger, in digest order. Where each event is new, a plain insert does, for two thirds of the cost of the one below;
  -- where one is not, it leaves nothing but dead rows.
  if p_expect_new and not v_known then
    begin
      insert into dedup_ledger (digest, event_id, by_hash)
      select v_digests[g.ord], v_ids[g.ord], p_provider_event_ids[g.ord] is null
        from generate_series(1, v_count) as g(ord)
       where v_digests[g.ord] is not null
       order by 1;
      v_put := v_keys;
    exception when unique_violation then
      v_guessed_wrong := true;
    end;
  end if;

  -- Our id goes in where the key is free or expired; a live row stays as it is, but locked, so that it is neither purged nor
  -- missed. Only the first delivery of a key within the batch takes part.
  if v_put is null then
    with put as (
      insert into dedup_ledger as l (digest, event_id, by_hash)
      select distinct on (i.digest) i.digest, coalesce(r.event_id, i.id), i.by_hash
        from (
          select v_digests[g.ord] as digest, v_ids[g.ord] as id, p_provider_event_ids[g.ord] is null as by_hash, g.ord
            from generate_series(1, v_count) as g(ord)
          offset 0
        ) i
        left join lateral (
          select r.event_id
            from stripe_event_idempotency r
           where v_known
             and r.tenant_id = p_tenant_ids[i.ord] and r.source = p_sources[i.ord] and r.provider_event_id = v_replay_keys[i.ord]
             and r.event_id >= v_id_floor
        ) r on true
       where i.digest is not null
       order by i.digest, i.ord
      on conflict (digest) do update
         set event_id = excluded.event_id, duplicates = 0, by_hash = excluded.by_hash
       where l.event_id < case when l.by_hash then v_hash_floor else v_id_floor end
      returning 1
    )
    select count(*) into v_put from put;
  end if;

  -- Every key was free: each is fresh, but for those refused.
  v_event_ids := v_ids;
  if v_known or v_put < v_keys then
    -- Who is fresh, and which event the others belong to. In a statement of its own, because only a new snapshot sees
    -- what a concurrent delivery has committed while we waited for its lock.
    select array_agg(q.event_id), array_agg(q.fresh), array_agg(q.signature_timestamp)
      into v_event_ids, v_fresh, v_stored_timestamps
      from (
        select coalesce(r.event_id, l.event_id, i.id) as event_id,
               i.refusal is null and r.event_id is null and coalesce(l.event_id, i.id) = i.id as fresh,
               r.signature_timestamp
          from unnest(p_tenant_ids, p_sources, v_replay_keys, v_digests, v_ids, v_refusals)
                 with ordinality as i(tenant_id, source, replay_key, digest, id, refusal, ord)
          left join dedup_ledger l on l.digest = i.digest
          left join stripe_event_idempotency r
            on r.tenant_id = i.tenant_id and r.source = i.source and r.provider_event_id = i.replay_key
           and r.event_id >= v_id_floor
         order by i.ord
      ) q;
  elsif v_refusals is not null then
    select array_agg(v_refusals[g.ord] is null order by g.ord) into v_fresh from generate_series(1, v_count) as g(ord);
  end if;

  -- Fresh events over the tenant's quota, by arrival: held, where its policy is that and a second quota has room, or
  -- refused; the keys of those are given back. Nearly always there is room for all, and nobody has to be told apart.
  if v_fresh is null and cardinality(v_tenants) = 1 then
    v_exceeded := v_quota_used[1] + v_count > v_quotas[1];
  else
    select bool_or(u.used + f.fresh > u.quota) into v_exceeded
      from (
        select p_tenant_ids[g.ord] as tenant_id, count(*) as fresh
          from generate_series(1, v_count) as g(ord)
         where v_fresh is null or v_fresh[g.ord]
         group by 1
      ) f
      join unnest(v_tenants, v_quota_used, v_quotas) u(tenant_id, used, quota) on u.tenant_id = f.tenant_id;
  end if;
  if v_exceeded then
    select array_agg(q.event_id) filter (where q.over > q.may_hold),
           array_agg(q.event_id) filter (where q.over between 1 and q.may_hold)
      into v_over_quota, v_held
      from (
        select i.event_id,
               row_number() over (partition by i.tenant_id order by i.ord) + u.used - u.quota as over,
               case t.quota_policy when 'hold' then u.quota else 0 end as may_hold
          from (
            select g.ord, p_tenant_ids[g.ord] as tenant_id, v_event_ids[g.ord] as event_id
              from generate_series(1, v_count) as g(ord)
             where v_fresh is null or v_fresh[g.ord]
          ) i
          join tenants t on t.id = i.tenant_id
          join unnest(v_tenants, v_quota_used, v_quotas) u(tenant_id, used, quota) on u.tenant_id = i.tenant_id
      ) q;
    if v_over_quota is not null then
      delete from dedup_ledger l
       using unnest(v_digests, v_event_ids) i(digest, event_id)
       where l.digest = i.digest and l.event_id = i.event_id and i.event_id = any (v_over_quota);
    end if;
  end if;

  if v_fresh is not null or v_over_quota is not null then
    select array_agg(q.outcome) into v_outcomes
      from (
        select case
                 when i.refusal is not null then i.refusal
                 when i.event_id = any (v_over_quota) then 'over_quota'
                 when coalesce(i.fresh, true) then 'accepted'
                 when i.replay_key is null then 'duplicate'
                 when i.replay_policy = 'reject_all' then 'replay'
                 when coalesce(i.signed_at, '-infinity') <= greatest(
                        i.stored_at,
                        max(coalesce(i.signed_at, '-infinity')) over (
                          partition by i.event_id order by i.ord rows between unbounded preceding and 1 preceding))
                   then 'replay'
                 else 'duplicate'
               end as outcome
          from unnest(v_event_ids, v_refusals, v_fresh, v_replay_keys, v_replay_policies, p_signature_timestamps, v_stored_timestamps)
                 with ordinality as i(event_id, refusal, fresh, replay_key, replay_policy, signed_at, stored_at, ord)
         order by i.ord
      ) q;
  end if;

  -- By the place where each row was locked: nobody else can have moved it.
  if v_outcomes is null and cardinality(v_tenants) = 1 then
    update tenant_daily_quota_usage u set used = u.used + v_count where u.ctid = v_quota_rows[1];
  else
    update tenant_daily_quota_usage u
       set used = u.used + q.accepted
      from (
        select p_tenant_ids[g.ord] as tenant_id, count(*) as accepted
          from generate_series(1, v_count) as g(ord)
         where v_outcomes is null or v_outcomes[g.ord] = 'accepted'
         group by 1
      ) q
      join unnest(v_tenants, v_quota_rows) k(tenant_id, ctid) on k.tenant_id = q.tenant_id
     where u.ctid = k.ctid;
  end if;

  -- The newest signature of each event whose source rejects replays.
  if v_replay_keys is not null then
    insert into stripe_event_idempotency as r (tenant_id, source, provider_event_id, event_id, signature_timestamp)
    select i.tenant_id, i.source, i.replay_key, i.event_id, max(coalesce(i.signed_at, '-infinity'))
      from unnest(p_tenant_ids, p_sources, v_replay_keys, v_event_ids, p_signature_timestamps, v_outcomes)
             as i(tenant_id, source, replay_key, event_id, signed_at, outcome)
     where i.replay_key is not null and coalesce(i.outcome, 'accepted') in ('accepted', 'duplicate')
     group by i.tenant_id, i.source, i.replay_key, i.event_id
     order by i.tenant_id, i.source, i.replay_key
    on conflict (tenant_id, source, provider_event_id) do update
       set signature_timestamp = case when r.event_id = excluded.event_id
                                      then greatest(r.signature_timestamp, excluded.signature_timestamp)
                                      else excluded.signature_timestamp end,
           event_id = excluded.event_id;
  end if;

  if 'replay' = any (v_outcomes) then
    insert into rejected_replays as r (tenant_id, source, provider_event_id, event_id, times, first_at, last_at)
    select i.tenant_id, i.source, i.replay_key, i.event_id, count(*), p_now, p_now
      from unnest(p_tenant_ids, p_sources, v_replay_keys, v_event_ids, v_outcomes)
             as i(tenant_id, source, replay_key, event_id, outcome)
     where i.outcome = 'replay'
     group by i.tenant_id, i.source, i.replay_key, i.event_id
     order by i.tenant_id, i.source, i.replay_key
    on conflict (tenant_id, source, provider_event_id) do update
       -- A provider's id may come back as a new event after the window.
       set times = excluded.times + case when r.event_id = excluded.event_id then r.times else 0 end,
           first_at = case when r.event_id = excluded.event_id then r.first_at else excluded.first_at end,
           last_at = excluded.last_at, event_id = excluded.event_id;
  end if;

  insert into webhook_inbox (id, event_id, tenant_id, source, provider_event_id, event_type, body, body_sha256,
                             headers, signature_timestamp, secret_id, correlation_id, trace_context)
  select v_ids[g.ord], v_ids[g.ord], p_tenant_ids[g.ord], p_sources[g.ord], p_provider_event_ids[g.ord], p_event_types[g.ord],
         p_bodies[g.ord], v_hashes[g.ord], p_headers[g.ord], p_signature_timestamps[g.ord], p_secret_ids[g.ord],
         p_correlation_ids[g.ord], p_trace_contexts[g.ord]
    from generate_series(1, v_count) as g(ord)
   where v_outcomes is null or v_outcomes[g.ord] = 'accepted';

  insert into jobs (id, event_id, tenant_id, source, kind, event_type, dedup_key, correlation_id)
  select v_new_job_ids[g.ord], v_ids[g.ord], p_tenant_ids[g.ord], p_sources[g.ord], v_job_kinds[g.ord], p_event_types[g.ord],
         v_dedup_keys[g.ord], p_correlation_ids[g.ord]
    from generate_series(1, v_count) as g(ord)
   where v_outcomes is null or v_outcomes[g.ord] = 'accepted';

  if v_held is null then
    insert into open_jobs (job_id, tenant_id, state, attempt, due_at)
    select v_new_job_ids[g.ord], p_tenant_ids[g.ord], 'queued', 1, p_now
      from generate_series(1, v_count) as g(ord)
     where v_outcomes is null or v_outcomes[g.ord] = 'accepted';
    insert into outbox_messages (id, target, job_id, event_id, attempt, next_attempt_at)
    -- A job's first message has the job's id.
    select v_new_job_ids[g.ord], 'jobs', v_new_job_ids[g.ord], v_ids[g.ord], 1, p_now
      from generate_series(1, v_count) as g(ord)
     where v_outcomes is null or v_outcomes[g.ord] = 'accepted';
  else
    with made as (
      insert into open_jobs (job_id, tenant_id, state, attempt, due_at)
      select i.job_id, i.tenant_id, h.state, 1, h.due_at
        from unnest(v_new_job_ids, p_tenant_ids, v_ids, v_outcomes) as i(job_id, tenant_id, id, outcome)
       cross join lateral (
         select case when i.id = any (v_held) then 'held' else 'queued' end as state,
                case when i.id = any (v_held) then v_midnight else p_now end as due_at
       ) h
       where coalesce(i.outcome, 'accepted') = 'accepted'
      returning job_id, state, due_at
    )
    insert into outbox_messages (id, target, job_id, event_id, attempt, next_attempt_at)
    select relayforge.uuid7_of(v_stamp, i.ord::integer), case m.state when 'held' then 'retries' else 'jobs' end, m.job_id, i.id, 1, m.due_at
      from made m
      join unnest(v_new_job_ids, v_ids) with ordinality as i(job_id, id, ord) on i.job_id = m.job_id;
  end if;

  if v_fanouts is not null then
    insert into outbox_messages (id, target, job_id, event_id, attempt, next_attempt_at)
    select relayforge.uuid7_of(v_stamp, g.ord), 'events', v_new_job_ids[g.ord], v_ids[g.ord], 1,
           case when v_ids[g.ord] = any (v_held) then v_midnight else p_now end
      from generate_series(1, v_count) as g(ord)
     where v_fanouts[g.ord] and (v_outcomes is null or v_outcomes[g.ord] = 'accepted');
  end if;

  if v_outcomes is null then
    return query
    select 'accepted', v_ids[g.ord], v_ids[g.ord], v_new_job_ids[g.ord], null::integer, v_guessed_wrong
      from generate_series(1, v_count) as g(ord);
    return;
  end if;

  if 'duplicate' = any (v_outcomes) then
    insert into webhook_inbox (id, event_id, tenant_id, source, provider_event_id, event_type, body, body_sha256,
                               headers, signature_timestamp, secret_id, correlation_id, trace_context)
    select i.id, i.event_id, i.tenant_id, i.source, i.provider_event_id, i.event_type,
           -- An event that is gone may have been erased.
           case when f.id is not null and f.erased_at is null
                 and f.body_sha256 is distinct from i.body_sha256
                 and coalesce(l.duplicates, 0) + row_number() over (partition by i.event_id order by i.ord) <= c_bodies_per_event
                then i.body end,
           i.body_sha256, case when f.id is not null and f.erased_at is null then i.headers else '{}' end,
           i.signed_at, i.secret_id, i.correlation_id, case when f.id is not null and f.erased_at is null then i.trace_context end
      from unnest(v_ids, v_event_ids, v_digests, p_tenant_ids, p_sources, p_provider_event_ids, p_event_types, p_bodies, v_hashes,
                  p_headers, p_signature_timestamps, p_secret_ids, p_correlation_ids, p_trace_contexts, v_outcomes)
             with ordinality
             as i(id, event_id, digest, tenant_id, source, provider_event_id, event_type, body, body_sha256,
                  headers, signed_at, secret_id, correlation_id, trace_context, outcome, ord)
      left join webhook_inbox f on f.id = i.event_id
      left join dedup_ledger l on l.digest = i.digest
     where i.outcome = 'duplicate';
    update dedup_ledger l
       set duplicates = l.duplicates + q.times
      from (
        select i.digest, count(*)::integer as times
          from unnest(v_digests, v_outcomes) i(digest, outcome)
         where i.outcome = 'duplicate'
         group by i.digest
      ) q
     where l.digest = q.digest;
  end if;

  -- The jobs of events that were known. An event's first job has the event's millisecond, which names its partition.
  v_job_ids := v_new_job_ids;
  if 'duplicate' = any (v_outcomes) or 'replay' = any (v_outcomes) then
    select array_agg(q.job_id) into v_job_ids
      from (
        select case when i.outcome not in ('duplicate', 'replay') then i.new_job_id else (
                 select j.id
                   from jobs j
                  where j.event_id = i.event_id
                    and j.id >= relayforge.uuid7_floor(relayforge.uuid7_time(i.event_id))
                    and j.id < relayforge.uuid7_floor(relayforge.uuid7_time(i.event_id) + interval '1 millisecond')
                  order by j.id
                  limit 1
               ) end as job_id
          from unnest(v_new_job_ids, v_event_ids, v_outcomes) with ordinality as i(new_job_id, event_id, outcome, ord)
         order by i.ord
      ) q;
  end if;

  return query
  select i.outcome,
         case when i.outcome in ('accepted', 'duplicate') then i.id end,
         case when i.outcome in ('accepted', 'duplicate', 'replay') then i.event_id end,
         case when i.outcome in ('accepted', 'duplicate', 'replay') then i.job_id end,
         case when i.outcome = 'over_quota' then ceil(extract(epoch from v_midnight - p_now))::integer end,
         v_guessed_wrong
    from unnest(v_outcomes, v_ids, v_event_ids, v_job_ids) with ordinality as i(outcome, id, event_id, job_id, ord)
   order by i.ord;
end $$;
comment on function relayforge.ingest_webhooks is 'Takes in N verified webhooks and answers each, in one transaction: replay, dedup, quota, inbox, job, outbox.';
grant execute on function relayforge.ingest_webhooks to relayforge_api;
