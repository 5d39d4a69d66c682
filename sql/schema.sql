SELECT pg_catalog.set_config('search_path', '', false);
CREATE SCHEMA relayforge;
CREATE SCHEMA store;
COMMENT ON SCHEMA store IS 'Tables of Relayforge. Only functions of schema relayforge reach them.';
CREATE FUNCTION relayforge.abandon_outbox(p_ids uuid[], p_reasons text[], p_now timestamp with time zone DEFAULT clock_timestamp()) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
declare
  v_job_ids uuid[];
  v_reasons text[];
begin
  select array_agg(o.job_id), array_agg(a.reason)
    into v_job_ids, v_reasons
    from unnest(p_ids, p_reasons) a(id, reason)
    join outbox_messages o on o.id = a.id and o.target = 'jobs'
    join open_jobs j on j.job_id = o.job_id and j.attempt = o.attempt and j.state in ('queued', 'retrying');
  if v_job_ids is not null then
    perform 1 from open_jobs j where j.job_id = any (v_job_ids) order by j.job_id for no key update;
    perform relayforge.dead_letter_jobs(v_job_ids, array_fill('unpublishable'::text, array[cardinality(v_job_ids)]), v_reasons, p_now);
  end if;
  perform 1 from outbox_messages o where o.id = any (p_ids) order by o.id for update;
  delete from outbox_messages o where o.id = any (p_ids);
end $$;
COMMENT ON FUNCTION relayforge.abandon_outbox(p_ids uuid[], p_reasons text[], p_now timestamp with time zone) IS 'Gives up messages that can never be published; the job of a work message is dead-lettered with the reason.';
CREATE FUNCTION relayforge.add_secret(p_id uuid, p_tenant_id uuid, p_source text, p_ciphertext bytea, p_master_key_id text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
begin
  insert into tenant_provider_secrets (id, tenant_id, source, ciphertext, master_key_id)
  values (p_id, p_tenant_id, p_source, p_ciphertext, p_master_key_id);
exception
  when foreign_key_violation then
    raise exception 'tenant % or source % does not exist', p_tenant_id, p_source using errcode = 'RF404';
  when unique_violation then
    raise exception 'a secret with id % exists', p_id using errcode = 'RF409';
end $$;
COMMENT ON FUNCTION relayforge.add_secret(p_id uuid, p_tenant_id uuid, p_source text, p_ciphertext bytea, p_master_key_id text) IS 'Adds a version of a signing secret, sealed under its id; earlier versions stay valid.';
CREATE FUNCTION relayforge.backoff(p_base interval, p_cap interval, p_try integer) RETURNS interval
    LANGUAGE sql PARALLEL SAFE
    AS $$
  select least(p_cap, p_base * power(2, least(greatest(p_try, 1) - 1, 30))) * (0.5 + random() / 2)
$$;
COMMENT ON FUNCTION relayforge.backoff(p_base interval, p_cap interval, p_try integer) IS 'Exponential back-off with jitter: half to whole of base * 2^(try - 1), at most the cap.';
CREATE FUNCTION relayforge.claim_outbox(p_target text, p_limit integer, p_from_at timestamp with time zone DEFAULT '-infinity'::timestamp with time zone, p_from_id uuid DEFAULT '00000000-0000-0000-0000-000000000000'::uuid, p_now timestamp with time zone DEFAULT clock_timestamp()) RETURNS TABLE(id uuid, job_id uuid, event_id uuid, attempt smallint, next_attempt_at timestamp with time zone, attempts integer, tenant_id uuid, tenant_slug text, source text, source_kind text, event_type text, provider_event_id text, correlation_id text, headers jsonb, body bytea, trace_context jsonb, cause text, error text)
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    AS $$
  with claimed as (
    select o.id, o.job_id, o.event_id, o.attempt, o.next_attempt_at, o.attempts
      from outbox_messages o
     where o.target = p_target
       and (o.next_attempt_at, o.id) >= (p_from_at, p_from_id)
       and o.next_attempt_at <= p_now
     order by o.next_attempt_at, o.id
     limit p_limit
       for update skip locked
  )
  select q.id, q.job_id, q.event_id, q.attempt, q.next_attempt_at, q.attempts,
         q.tenant_id, q.slug, q.source, q.kind, q.event_type, q.provider_event_id,
         q.correlation_id, q.headers, q.body, q.trace_context, q.cause, q.last_error
    from (
      select c.id, c.job_id, c.event_id, c.attempt, c.next_attempt_at, c.attempts,
             i.tenant_id, t.slug, i.source, s.kind, i.event_type, i.provider_event_id,
             i.correlation_id, i.headers, i.body, i.trace_context, d.cause, j.last_error,
             sum(octet_length(i.body)) over (
               order by c.next_attempt_at, c.id rows between unbounded preceding and 1 preceding) as bytes_before
        from claimed c
        left join webhook_inbox i on i.id = c.event_id
        left join tenants t on t.id = i.tenant_id
        left join sources s on s.name = i.source
        left join dead_jobs d on p_target = 'dlq' and d.job_id = c.job_id
        left join jobs j on p_target = 'dlq' and j.id = c.job_id
    ) q
   -- 4 MiB of bodies, and the one that passes it: what a relay holds in memory for one batch. What is cut off stays
   -- locked until the transaction ends, and is claimed by a later one.
   where coalesce(q.bytes_before, 0) < 4194304
   order by q.next_attempt_at, q.id
$$;
COMMENT ON FUNCTION relayforge.claim_outbox(p_target text, p_limit integer, p_from_at timestamp with time zone, p_from_id uuid, p_now timestamp with time zone) IS 'Claims due messages of one target until the end of the transaction, with what is needed to make them; event columns are null where the event is gone, cause and error are those of a job that was given up.';
CREATE PROCEDURE relayforge.complete_jobs(IN p_job_ids uuid[], IN p_run_ids uuid[], INOUT p_completed uuid[] DEFAULT NULL::uuid[], IN p_now timestamp with time zone DEFAULT clock_timestamp())
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    AS $$
begin
  perform 1
     from open_jobs o
    where o.job_id = any (p_job_ids) and o.run_id = any (p_run_ids)
    order by o.job_id
      for no key update;
  with ended as (
    delete from open_jobs o
     using unnest(p_job_ids, p_run_ids) i(job_id, run_id)
     where o.job_id = i.job_id and o.run_id = i.run_id
    returning o.job_id, o.attempt, o.started_at
  ), written as (
    update jobs j
       set outcome = 'succeeded', attempts = e.attempt, started_at = e.started_at, finished_at = p_now
      from ended e
     where j.id = e.job_id
    returning j.id
  )
  select coalesce(array_agg(w.id), '{}') into p_completed from written w;
end $$;
COMMENT ON PROCEDURE relayforge.complete_jobs(IN p_job_ids uuid[], IN p_run_ids uuid[], INOUT p_completed uuid[], IN p_now timestamp with time zone) IS 'Ends runs that succeeded; returns the jobs whose current run it was.';
CREATE FUNCTION relayforge.count_outbox() RETURNS bigint
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
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
COMMENT ON FUNCTION relayforge.count_outbox() IS 'Messages that wait for the broker: exact to 100,000, then estimated.';
CREATE FUNCTION relayforge.create_admin_key(p_name text, p_role text, p_key_sha256 bytea) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
declare
  v_id constant uuid := relayforge.uuid7(clock_timestamp(), 0);
begin
  insert into admin_api_keys (id, name, role, key_sha256) values (v_id, p_name, p_role, p_key_sha256);
  return v_id;
exception when unique_violation then
  raise exception 'this key exists already' using errcode = 'RF409';
end $$;
COMMENT ON FUNCTION relayforge.create_admin_key(p_name text, p_role text, p_key_sha256 bytea) IS 'Makes a key of the admin API and returns its id; the key itself is never stored.';
CREATE FUNCTION relayforge.create_source(p_name text, p_kind text, p_dedup text DEFAULT 'event_id_or_hash'::text, p_replay_policy text DEFAULT 'absorb'::text, p_job_kind text DEFAULT 'log'::text, p_fanout boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
begin
  insert into sources (name, kind, dedup, replay_policy, job_kind, fanout)
  values (p_name, p_kind, p_dedup, p_replay_policy, p_job_kind, p_fanout);
exception when unique_violation then
  raise exception 'a source named % exists', p_name using errcode = 'RF409';
end $$;
COMMENT ON FUNCTION relayforge.create_source(p_name text, p_kind text, p_dedup text, p_replay_policy text, p_job_kind text, p_fanout boolean) IS 'Makes a source: how webhooks of that name are verified, deduplicated and turned into jobs.';
CREATE FUNCTION relayforge.create_tenant(p_slug text, p_name text, p_id uuid DEFAULT NULL::uuid) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
declare
  v_id uuid := coalesce(p_id, relayforge.uuid7(clock_timestamp(), 0));
begin
  insert into tenants (id, slug, name) values (v_id, p_slug, p_name);
  return v_id;
exception when unique_violation then
  raise exception 'a tenant with slug % or id % exists', p_slug, v_id using errcode = 'RF409';
end $$;
COMMENT ON FUNCTION relayforge.create_tenant(p_slug text, p_name text, p_id uuid) IS 'Makes a tenant and returns its id.';
CREATE FUNCTION relayforge.dead_letter_jobs(p_job_ids uuid[], p_causes text[], p_errors text[], p_now timestamp with time zone) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'store', 'pg_temp'
    SET enable_seqscan TO 'off'
    AS $$
begin
  with ended as (
    delete from open_jobs o
     using unnest(p_job_ids, p_causes, p_errors) i(job_id, cause, error)
     where o.job_id = i.job_id
    returning o.job_id, o.attempt, o.started_at, i.cause, left(i.error, 2000) as error
  ), written as (
    update jobs j
       set outcome = 'dead_lettered', attempts = e.attempt, started_at = e.started_at, finished_at = p_now,
           last_error = e.error
      from ended e
     where j.id = e.job_id
    returning j.id, j.event_id, j.tenant_id, j.source, j.attempts, e.cause, e.error
  ), dead as (
    insert into dead_jobs (job_id, tenant_id, source, cause, dead_at)
    select w.id, w.tenant_id, w.source, w.cause, p_now from written w
  ), logged as (
    insert into job_log (id, job_id, what, attempt, detail)
    select relayforge.uuid7(p_now, 1), w.id, 'dead', w.attempts, w.cause || ': ' || w.error from written w
  )
  insert into outbox_messages (id, target, job_id, event_id, attempt, next_attempt_at)
  select relayforge.uuid7(p_now, 1), 'dlq', w.id, w.event_id, w.attempts, p_now from written w;
end $$;
COMMENT ON FUNCTION relayforge.dead_letter_jobs(p_job_ids uuid[], p_causes text[], p_errors text[], p_now timestamp with time zone) IS 'Gives up open jobs that the caller has locked: outcome, dead_jobs, log, and a copy for the dead-letter queue.';
CREATE FUNCTION relayforge.ensure_partitions(p_interval text DEFAULT 'day'::text, p_days_ahead integer DEFAULT 14, p_now timestamp with time zone DEFAULT clock_timestamp()) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    AS $$
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
    select max(relayforge.uuid7_time((regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''([^'']+)''\)'))[1]::uuid))
      into v_from
      from pg_inherits i join pg_class c on c.oid = i.inhrelid
     where i.inhparent = format('store.%I', v_parent)::regclass;
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
COMMENT ON FUNCTION relayforge.ensure_partitions(p_interval text, p_days_ahead integer, p_now timestamp with time zone) IS 'Makes missing partitions, p_interval (day or week) each, p_days_ahead days ahead; returns how many. Safe to call at any time.';
CREATE PROCEDURE relayforge.fail_jobs(IN p_job_ids uuid[], IN p_run_ids uuid[], IN p_errors text[], IN p_retryable boolean[], IN p_retry_after_seconds double precision[], IN p_max_attempts integer, IN p_backoff_base interval, IN p_backoff_cap interval, INOUT p_failed uuid[] DEFAULT NULL::uuid[], INOUT p_outcomes text[] DEFAULT NULL::text[], INOUT p_next_due timestamp with time zone DEFAULT NULL::timestamp with time zone, IN p_now timestamp with time zone DEFAULT clock_timestamp())
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    AS $$
declare
  v_errors text[];
  v_attempts smallint[];
  v_dues timestamptz[];
  v_causes text[];
begin
  perform 1
     from open_jobs o
    where o.job_id = any (p_job_ids) and o.run_id = any (p_run_ids)
    order by o.job_id
      for no key update;
  select coalesce(array_agg(q.job_id), '{}'), array_agg(q.error), array_agg(q.attempt), array_agg(q.cause),
         coalesce(array_agg(case when q.cause is null then 'retrying' else 'dead_lettered' end), '{}'),
         array_agg(case when q.cause is null then p_now + greatest(
           make_interval(secs => q.retry_after_seconds),
           relayforge.backoff(p_backoff_base, p_backoff_cap, q.attempt - q.attempt_base)) end)
    into p_failed, v_errors, v_attempts, v_causes, p_outcomes, v_dues
    from (
      select o.job_id, o.attempt, o.attempt_base, left(i.error, 2000) as error, i.retry_after_seconds,
             case
               when not i.retryable then 'permanent'
               when o.attempt - o.attempt_base >= p_max_attempts then 'exhausted'
             end as cause
        from unnest(p_job_ids, p_run_ids, p_errors, p_retryable, p_retry_after_seconds)
               as i(job_id, run_id, error, retryable, retry_after_seconds)
        join open_jobs o on o.job_id = i.job_id and o.run_id = i.run_id
       order by o.job_id
    ) q;
  insert into job_log (id, job_id, what, attempt, detail)
  select relayforge.uuid7(p_now, 0), i.job_id, 'failed', i.attempt, i.error
    from unnest(p_failed, v_attempts, v_errors) i(job_id, attempt, error);
  update open_jobs o
     set state = 'retrying', attempt = o.attempt + 1, starts = 0, run_id = null, lease_until = null, due_at = i.due_at
    from unnest(p_failed, v_dues) i(job_id, due_at)
   where o.job_id = i.job_id and i.due_at is not null;
  perform relayforge.dead_letter_jobs(array_agg(i.job_id), array_agg(i.cause), array_agg(i.error), p_now)
     from unnest(p_failed, v_causes, v_errors) i(job_id, cause, error)
    where i.cause is not null
   having count(*) > 0;
  insert into outbox_messages (id, target, job_id, event_id, attempt, next_attempt_at)
  select relayforge.uuid7(p_now, 0), 'jobs', i.job_id, j.event_id, i.attempt + 1, i.due_at
    from unnest(p_failed, v_attempts, v_dues) i(job_id, attempt, due_at)
    join jobs j on j.id = i.job_id
   where i.due_at is not null;
  select min(d.at) into p_next_due from unnest(v_dues) d(at);
end $$;
COMMENT ON PROCEDURE relayforge.fail_jobs(IN p_job_ids uuid[], IN p_run_ids uuid[], IN p_errors text[], IN p_retryable boolean[], IN p_retry_after_seconds double precision[], IN p_max_attempts integer, IN p_backoff_base interval, IN p_backoff_cap interval, INOUT p_failed uuid[], INOUT p_outcomes text[], INOUT p_next_due timestamp with time zone, IN p_now timestamp with time zone) IS 'Ends runs that failed: each job is retried after a back-off, or dead-lettered.';
CREATE FUNCTION relayforge.find_events(p_tenant_id uuid, p_source text, p_provider_event_ids text[], p_since timestamp with time zone) RETURNS TABLE(provider_event_id text, event_id uuid, deliveries bigint, job_ids uuid[])
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
  select i.provider_event_id, i.event_id, count(*),
         (select coalesce(array_agg(j.id order by j.id), '{}')
            from jobs j
           where j.event_id = i.event_id and j.id >= relayforge.uuid7_floor(relayforge.uuid7_time(i.event_id)))
    from webhook_inbox i
   where i.id >= relayforge.uuid7_floor(p_since)
     and i.tenant_id = p_tenant_id
     and i.source = p_source
     and i.provider_event_id = any (p_provider_event_ids)
   group by i.provider_event_id, i.event_id
$$;
COMMENT ON FUNCTION relayforge.find_events(p_tenant_id uuid, p_source text, p_provider_event_ids text[], p_since timestamp with time zone) IS 'The events stored under the provider''s ids since a time, with the number of deliveries and the jobs of each.';
CREATE FUNCTION relayforge.ingest_webhooks(p_tenant_ids uuid[], p_sources text[], p_provider_event_ids text[], p_event_types text[], p_bodies bytea[], p_headers jsonb[], p_signature_timestamps timestamp with time zone[], p_secret_ids uuid[], p_correlation_ids text[], p_trace_contexts jsonb[], p_default_daily_quota bigint, p_dedup_window interval, p_hash_window interval, p_now timestamp with time zone DEFAULT clock_timestamp()) RETURNS TABLE(outcome text, inbox_id uuid, event_id uuid, job_id uuid, retry_after_seconds integer)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    AS $$
#variable_conflict use_column
declare
  v_day constant date := (p_now at time zone 'UTC')::date;
  v_midnight constant timestamptz := (v_day + 1)::timestamp at time zone 'UTC';
  v_id_floor constant uuid := relayforge.uuid7_floor(p_now - p_dedup_window);
  v_hash_floor constant uuid := relayforge.uuid7_floor(p_now - p_hash_window);
  -- One element per webhook, in arrival order.
  v_ids uuid[];
  v_hashes bytea[];
  v_refusals text[];
  v_dedup_keys text[];
  v_digests bytea[];
  v_by_hash boolean[];
  v_replay_keys text[];
  v_replay_policies text[];
  v_job_kinds text[];
  v_fanouts boolean[];
  v_event_ids uuid[];
  v_fresh boolean[];
  v_stored_timestamps timestamptz[];
  v_outcomes text[];
  v_job_ids uuid[];
  -- Sets.
  v_tenants uuid[];
  v_over_quota uuid[];
begin
  -- What each webhook is, by the present configuration (the API's copy may be a second old).
  select array_agg(q.id), array_agg(q.body_sha256), array_agg(q.refusal), array_agg(q.dedup_key),
         array_agg(substring(sha256(uuid_send(q.tenant_id) || convert_to(q.source || ':' || q.dedup_key, 'UTF8')) for 16)),
         array_agg(q.by_hash), array_agg(q.replay_key), array_agg(q.replay_policy), array_agg(q.job_kind), array_agg(q.fanout)
    into v_ids, v_hashes, v_refusals, v_dedup_keys,
         v_digests,
         v_by_hash, v_replay_keys, v_replay_policies, v_job_kinds, v_fanouts
    from (
      select i.tenant_id, i.source, r.refusal, s.replay_policy, s.job_kind, s.fanout,
             relayforge.uuid7(p_now, i.ord::integer) as id,
             sha256(i.body) as body_sha256,
             i.provider_event_id is null as by_hash,
             case
               when r.refusal is not null or s.dedup = 'none' then null
               when i.provider_event_id is not null then 'provider:' || i.provider_event_id
               else 'hash:' || encode(sha256(i.body), 'hex')
             end as dedup_key,
             case when r.refusal is null and s.replay_policy <> 'absorb' then i.provider_event_id end as replay_key
        from unnest(p_tenant_ids, p_sources, p_provider_event_ids, p_bodies)
               with ordinality as i(tenant_id, source, provider_event_id, body, ord)
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
  -- Not beside the others: newer servers sort the input of all aggregates for one that asks for an order.
  select array_agg(distinct i.tenant_id order by i.tenant_id) into v_tenants
    from unnest(p_tenant_ids, v_refusals) i(tenant_id, refusal)
   where i.refusal is null;
  -- Quota rows, made if this is the tenant's first batch of the day, then locked in tenant order.
  insert into tenant_daily_quota_usage (tenant_id, day, used)
  select t.tenant_id, v_day, 0 from unnest(v_tenants) t(tenant_id)
  on conflict do nothing;
  perform 1
     from tenant_daily_quota_usage u
    where u.tenant_id = any (v_tenants) and u.day = v_day
    order by u.tenant_id
      for no key update;
  -- Replay rows of events that are known already.
  if array_length(array_remove(v_replay_keys, null), 1) > 0 then
    perform 1
       from unnest(p_tenant_ids, p_sources, v_replay_keys) i(tenant_id, source, replay_key)
       join stripe_event_idempotency r
         on r.tenant_id = i.tenant_id and r.source = i.source and r.provider_event_id = i.replay_key
      order by r.tenant_id, r.source, r.provider_event_id
        for no key update of r;
  end if;
  -- The ledger, in digest order. Our id goes in where the key is free or expired; a live row stays as it is, but locked,
  -- so that it is neither purged nor missed. Only the first delivery of a key within the batch takes part.
  insert into dedup_ledger as l (digest, event_id, by_hash)
  select distinct on (i.digest) i.digest, coalesce(r.event_id, i.id), i.by_hash
    from unnest(p_tenant_ids, p_sources, v_replay_keys, v_digests, v_ids, v_by_hash)
           with ordinality as i(tenant_id, source, replay_key, digest, id, by_hash, ord)
    left join stripe_event_idempotency r
      on r.tenant_id = i.tenant_id and r.source = i.source and r.provider_event_id = i.replay_key
   where i.digest is not null
   order by i.digest, i.ord
  on conflict (digest) do update
     set event_id = excluded.event_id, duplicates = 0, by_hash = excluded.by_hash
   where l.event_id < case when l.by_hash then v_hash_floor else v_id_floor end;
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
       order by i.ord
    ) q;
  -- Fresh events over the tenant's quota, by arrival; their keys are given back.
  select array_agg(q.event_id) into v_over_quota
    from (
      select i.event_id, i.tenant_id, row_number() over (partition by i.tenant_id order by i.ord) as rank
        from unnest(p_tenant_ids, v_event_ids, v_fresh) with ordinality as i(tenant_id, event_id, fresh, ord)
       where i.fresh
    ) q
    join tenants t on t.id = q.tenant_id
    join tenant_daily_quota_usage u on u.tenant_id = q.tenant_id and u.day = v_day
   where q.rank > coalesce(t.daily_quota, p_default_daily_quota) - u.used;
  if v_over_quota is not null then
    delete from dedup_ledger l
     using unnest(v_digests, v_event_ids, v_fresh) i(digest, event_id, fresh)
     where l.digest = i.digest and i.fresh and i.event_id = any (v_over_quota);
  end if;
  select array_agg(q.outcome) into v_outcomes
    from (
      select case
               when i.refusal is not null then i.refusal
               when i.event_id = any (v_over_quota) then 'over_quota'
               when i.fresh then 'accepted'
               when i.replay_key is null then 'duplicate'
               when i.replay_policy = 'reject_all' then 'replay'
               when coalesce(i.signed_at, '-infinity') <= greatest(
                      i.stored_at,
                      max(coalesce(i.signed_at, '-infinity')) over (
                        partition by i.event_id order by i.ord rows between unbounded preceding and 1 preceding))
                 then 'replay'
               else 'duplicate'
             end as outcome
        from unnest(v_refusals, v_event_ids, v_fresh, v_replay_keys, v_replay_policies, p_signature_timestamps, v_stored_timestamps)
               with ordinality as i(refusal, event_id, fresh, replay_key, replay_policy, signed_at, stored_at, ord)
       order by i.ord
    ) q;
  update tenant_daily_quota_usage u
     set used = u.used + q.accepted
    from (
      select i.tenant_id, count(*) as accepted
        from unnest(p_tenant_ids, v_outcomes) i(tenant_id, outcome)
       where i.outcome = 'accepted'
       group by i.tenant_id
    ) q
   where u.tenant_id = q.tenant_id and u.day = v_day;
  -- The newest signature of each event whose source rejects replays.
  if array_length(array_remove(v_replay_keys, null), 1) > 0 then
    insert into stripe_event_idempotency as r (tenant_id, source, provider_event_id, event_id, signature_timestamp)
    select i.tenant_id, i.source, i.replay_key, i.event_id, max(coalesce(i.signed_at, '-infinity'))
      from unnest(p_tenant_ids, p_sources, v_replay_keys, v_event_ids, p_signature_timestamps, v_outcomes)
             as i(tenant_id, source, replay_key, event_id, signed_at, outcome)
     where i.replay_key is not null and i.outcome in ('accepted', 'duplicate')
     group by i.tenant_id, i.source, i.replay_key, i.event_id
     order by i.tenant_id, i.source, i.replay_key
    on conflict (tenant_id, source, provider_event_id) do update
       set signature_timestamp = greatest(r.signature_timestamp, excluded.signature_timestamp);
  end if;
  insert into webhook_inbox (id, event_id, tenant_id, source, provider_event_id, event_type, body, body_sha256,
                             headers, signature_timestamp, secret_id, correlation_id, trace_context)
  select i.id, i.id, i.tenant_id, i.source, i.provider_event_id, i.event_type, i.body, i.body_sha256,
         i.headers, i.signed_at, i.secret_id, i.correlation_id, i.trace_context
    from unnest(v_ids, p_tenant_ids, p_sources, p_provider_event_ids, p_event_types, p_bodies, v_hashes,
                p_headers, p_signature_timestamps, p_secret_ids, p_correlation_ids, p_trace_contexts, v_outcomes)
           as i(id, tenant_id, source, provider_event_id, event_type, body, body_sha256,
                headers, signed_at, secret_id, correlation_id, trace_context, outcome)
   where i.outcome = 'accepted';
  with made as (
    insert into jobs (id, event_id, tenant_id, source, kind, event_type, dedup_key, correlation_id)
    select relayforge.uuid7(p_now, i.ord::integer), i.id, i.tenant_id, i.source, i.job_kind, i.event_type, i.dedup_key, i.correlation_id
      from unnest(v_ids, p_tenant_ids, p_sources, v_job_kinds, p_event_types, v_dedup_keys, p_correlation_ids, v_outcomes)
             with ordinality as i(id, tenant_id, source, job_kind, event_type, dedup_key, correlation_id, outcome, ord)
     where i.outcome = 'accepted'
    returning id, event_id, tenant_id
  ), opened as (
    insert into open_jobs (job_id, tenant_id, state, attempt, due_at)
    select m.id, m.tenant_id, 'queued', 1, p_now from made m
  )
  insert into outbox_messages (id, target, job_id, event_id, attempt, next_attempt_at)
  select relayforge.uuid7(p_now, 0), 'jobs', m.id, m.event_id, 1, p_now from made m;
  if true = any (v_fanouts) then
    insert into outbox_messages (id, target, job_id, event_id, attempt, next_attempt_at)
    select relayforge.uuid7(p_now, i.ord::integer), 'events', j.id, i.event_id, 1, p_now
      from unnest(v_event_ids, v_fanouts, v_outcomes) with ordinality as i(event_id, fanout, outcome, ord)
      join jobs j on j.event_id = i.event_id
                 and j.id >= relayforge.uuid7_floor(p_now)
                 and j.id < relayforge.uuid7_floor(p_now + interval '1 millisecond')
     where i.outcome = 'accepted' and i.fanout;
  end if;
  if 'duplicate' = any (v_outcomes) then
    insert into webhook_inbox (id, event_id, tenant_id, source, provider_event_id, event_type, body, body_sha256,
                               headers, signature_timestamp, secret_id, correlation_id, trace_context)
    select i.id, i.event_id, i.tenant_id, i.source, i.provider_event_id, i.event_type,
           case when f.body_sha256 is distinct from i.body_sha256 then i.body end, i.body_sha256,
           i.headers, i.signed_at, i.secret_id, i.correlation_id, i.trace_context
      from unnest(v_ids, v_event_ids, p_tenant_ids, p_sources, p_provider_event_ids, p_event_types, p_bodies, v_hashes,
                  p_headers, p_signature_timestamps, p_secret_ids, p_correlation_ids, p_trace_contexts, v_outcomes)
             as i(id, event_id, tenant_id, source, provider_event_id, event_type, body, body_sha256,
                  headers, signed_at, secret_id, correlation_id, trace_context, outcome)
      left join webhook_inbox f on f.id = i.event_id
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
  -- An event's first job has the event's millisecond, which names its partition.
  select array_agg(q.job_id) into v_job_ids
    from (
      select case when i.outcome in ('accepted', 'duplicate', 'replay') then (
               select j.id
                 from jobs j
                where j.event_id = i.event_id
                  and j.id >= relayforge.uuid7_floor(relayforge.uuid7_time(i.event_id))
                  and j.id < relayforge.uuid7_floor(relayforge.uuid7_time(i.event_id) + interval '1 millisecond')
                order by j.id
                limit 1
             ) end as job_id
        from unnest(v_event_ids, v_outcomes) with ordinality as i(event_id, outcome, ord)
       order by i.ord
    ) q;
  return query
  select i.outcome,
         case when i.outcome in ('accepted', 'duplicate') then i.id end,
         case when i.outcome in ('accepted', 'duplicate', 'replay') then i.event_id end,
         i.job_id,
         case when i.outcome = 'over_quota' then ceil(extract(epoch from v_midnight - p_now))::integer end
    from unnest(v_outcomes, v_ids, v_event_ids, v_job_ids) with ordinality as i(outcome, id, event_id, job_id, ord)
   order by i.ord;
end $$;
COMMENT ON FUNCTION relayforge.ingest_webhooks(p_tenant_ids uuid[], p_sources text[], p_provider_event_ids text[], p_event_types text[], p_bodies bytea[], p_headers jsonb[], p_signature_timestamps timestamp with time zone[], p_secret_ids uuid[], p_correlation_ids text[], p_trace_contexts jsonb[], p_default_daily_quota bigint, p_dedup_window interval, p_hash_window interval, p_now timestamp with time zone) IS 'Takes in N verified webhooks and answers each, in one transaction: replay, dedup, quota, inbox, job, outbox.';
CREATE FUNCTION relayforge.load_secrets(p_now timestamp with time zone DEFAULT clock_timestamp()) RETURNS TABLE(id uuid, tenant_id uuid, source text, ciphertext bytea, master_key_id text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
  select s.id, s.tenant_id, s.source, s.ciphertext, s.master_key_id
    from tenant_provider_secrets s
   where s.retired_at is null or s.retired_at > p_now
   order by s.id desc
$$;
COMMENT ON FUNCTION relayforge.load_secrets(p_now timestamp with time zone) IS 'All valid secrets, sealed, newest first, for the API''s cache.';
CREATE FUNCTION relayforge.load_sources() RETURNS TABLE(name text, kind text, dedup text, replay_policy text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
  select s.name, s.kind, s.dedup, s.replay_policy from sources s
$$;
COMMENT ON FUNCTION relayforge.load_sources() IS 'All sources, for the API''s cache.';
CREATE FUNCTION relayforge.load_tenants() RETURNS TABLE(id uuid, slug text, status text, rate_per_second integer, rate_burst integer)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
  select t.id, t.slug, t.status, t.rate_per_second, t.rate_burst from tenants t
$$;
COMMENT ON FUNCTION relayforge.load_tenants() IS 'All tenants, for the API''s cache.';
CREATE FUNCTION relayforge.outbox_next_due(p_from_at timestamp with time zone DEFAULT '-infinity'::timestamp with time zone) RETURNS timestamp with time zone
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    SET enable_seqscan TO 'off'
    AS $$
  select min(n.at)
    from unnest(array['jobs', 'events', 'dlq']) t(target)
   cross join lateral (
     select o.next_attempt_at as at
       from outbox_messages o
      where o.target = t.target and o.next_attempt_at >= p_from_at
      order by o.next_attempt_at
      limit 1
   ) n
$$;
COMMENT ON FUNCTION relayforge.outbox_next_due(p_from_at timestamp with time zone) IS 'When the next message falls due; null when none waits.';
CREATE FUNCTION relayforge.record_rejections(p_causes text[], p_sources text[], p_tenant_ids uuid[], p_counts bigint[], p_now timestamp with time zone DEFAULT clock_timestamp()) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
  insert into webhook_rejections as r (hour, cause, source, tenant_id, count, last_at)
  select date_trunc('hour', p_now, 'UTC'), i.cause, i.source, i.tenant_id, sum(i.count), p_now
    from unnest(p_causes, p_sources, p_tenant_ids, p_counts) i(cause, source, tenant_id, count)
   group by i.cause, i.source, i.tenant_id
   order by i.cause, i.source, i.tenant_id
  on conflict on constraint webhook_rejections_key do update
     set count = r.count + excluded.count, last_at = greatest(r.last_at, excluded.last_at)
$$;
COMMENT ON FUNCTION relayforge.record_rejections(p_causes text[], p_sources text[], p_tenant_ids uuid[], p_counts bigint[], p_now timestamp with time zone) IS 'Adds up rejections per hour, cause, source and tenant.';
CREATE FUNCTION relayforge.relay_sleep(p_relay_id uuid, p_wakes_at timestamp with time zone) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
  insert into relay_sleepers (relay_id, wakes_at) values (p_relay_id, p_wakes_at)
  on conflict (relay_id) do update set wakes_at = excluded.wakes_at
$$;
COMMENT ON FUNCTION relayforge.relay_sleep(p_relay_id uuid, p_wakes_at timestamp with time zone) IS 'Says that a relay will sleep until the given time unless it is woken.';
CREATE FUNCTION relayforge.relay_wake(p_relay_id uuid) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
  delete from relay_sleepers where relay_id = p_relay_id
$$;
COMMENT ON FUNCTION relayforge.relay_wake(p_relay_id uuid) IS 'Takes back relay_sleep.';
CREATE PROCEDURE relayforge.renew_leases(IN p_job_ids uuid[], IN p_run_ids uuid[], IN p_lease interval, INOUT p_lost uuid[] DEFAULT NULL::uuid[], IN p_now timestamp with time zone DEFAULT clock_timestamp())
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    AS $$
begin
  perform 1
     from open_jobs o
    where o.job_id = any (p_job_ids) and o.run_id = any (p_run_ids)
    order by o.job_id
      for no key update;
  update open_jobs o
     set lease_until = p_now + p_lease
    from unnest(p_job_ids, p_run_ids) i(job_id, run_id)
   where o.job_id = i.job_id and o.run_id = i.run_id;
  select coalesce(array_agg(i.job_id), '{}') into p_lost
    from unnest(p_job_ids, p_run_ids) i(job_id, run_id)
    left join open_jobs o on o.job_id = i.job_id and o.run_id = i.run_id
   where o.job_id is null;
end $$;
COMMENT ON PROCEDURE relayforge.renew_leases(IN p_job_ids uuid[], IN p_run_ids uuid[], IN p_lease interval, INOUT p_lost uuid[], IN p_now timestamp with time zone) IS 'Extends the leases of runs that go on; returns the jobs that were lost.';
CREATE FUNCTION relayforge.schema_code() RETURNS TABLE(epoch integer, fingerprint text, migration integer)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
  select (regexp_match(c.comment, 'epoch ([0-9]+)'))[1]::integer,
         (regexp_match(c.comment, 'fingerprint ([0-9a-f]+)'))[1],
         (select max(h.version) from refinery_schema_history h)
    from (select obj_description('relayforge'::regnamespace, 'pg_namespace') as comment) c
$$;
COMMENT ON FUNCTION relayforge.schema_code() IS 'The code epoch and fingerprint (from the comment of schema relayforge) and the newest migration.';
CREATE FUNCTION relayforge.settle_outbox(p_confirmed uuid[], p_deferred uuid[], p_errors text[], p_backoff_base interval, p_backoff_cap interval, p_now timestamp with time zone DEFAULT clock_timestamp()) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    AS $$
begin
  with gone as (
    delete from outbox_messages o
     where o.id = any (p_confirmed)
    returning o.target, o.job_id, o.attempt
  )
  insert into job_log (id, job_id, what, attempt)
  select relayforge.uuid7(p_now, 0), g.job_id, 'published', g.attempt from gone g where g.target = 'jobs';
  update outbox_messages o
     set attempts = o.attempts + 1,
         last_error = left(d.error, 2000),
         next_attempt_at = p_now + relayforge.backoff(p_backoff_base, p_backoff_cap, o.attempts + 1)
    from unnest(p_deferred, p_errors) d(id, error)
   where o.id = d.id;
end $$;
COMMENT ON FUNCTION relayforge.settle_outbox(p_confirmed uuid[], p_deferred uuid[], p_errors text[], p_backoff_base interval, p_backoff_cap interval, p_now timestamp with time zone) IS 'Removes what the broker has confirmed and puts off the rest with its error.';
CREATE FUNCTION relayforge.start_jobs(p_job_ids uuid[], p_attempts integer[], p_lease interval, p_max_starts integer, p_now timestamp with time zone DEFAULT clock_timestamp()) RETURNS TABLE(outcome text, run_id uuid, tenant_id uuid, tenant_slug text, source text, source_kind text, job_kind text, event_id uuid, event_type text, provider_event_id text, correlation_id text, headers jsonb, body bytea, trace_context jsonb)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    AS $$
#variable_conflict use_column
declare
  v_outcomes text[];
  v_run_ids uuid[];
  v_poisoned uuid[];
begin
  perform 1 from open_jobs o where o.job_id = any (p_job_ids) order by o.job_id for no key update;
  select array_agg(q.outcome), array_agg(case when q.outcome = 'started' then gen_random_uuid() end),
         array_agg(q.job_id) filter (where q.outcome = 'poisoned')
    into v_outcomes, v_run_ids, v_poisoned
    from (
      select i.job_id,
             case
               when o.job_id is null then
                 case when exists (select 1 from jobs j where j.id = i.job_id) then 'final' else 'unknown' end
               when o.state = 'held' then 'held'
               when o.attempt <> i.attempt then 'stale'
               when o.state = 'processing' or i.nth > 1 then 'busy'
               when o.starts >= p_max_starts then 'poisoned'
               else 'started'
             end as outcome
        from (
          select a.job_id, a.attempt, a.ord, row_number() over (partition by a.job_id, a.attempt order by a.ord) as nth
            from unnest(p_job_ids, p_attempts) with ordinality as a(job_id, attempt, ord)
        ) i
        left join open_jobs o on o.job_id = i.job_id
       order by i.ord
    ) q;
  if v_poisoned is not null then
    perform relayforge.dead_letter_jobs(
      v_poisoned,
      array_fill('poison'::text, array[cardinality(v_poisoned)]),
      array_fill(format('%s runs in a row ended without an outcome', p_max_starts), array[cardinality(v_poisoned)]),
      p_now);
  end if;
  update open_jobs o
     set state = 'processing', run_id = i.run_id, lease_until = p_now + p_lease, started_at = p_now, starts = o.starts + 1
    from unnest(p_job_ids, v_run_ids) i(job_id, run_id)
   where o.job_id = i.job_id and i.run_id is not null;
  return query
  select i.outcome, i.run_id, j.tenant_id, t.slug, j.source, s.kind, j.kind,
         j.event_id, j.event_type, e.provider_event_id, j.correlation_id, e.headers, e.body, e.trace_context
    from unnest(p_job_ids, v_outcomes, v_run_ids) with ordinality as i(job_id, outcome, run_id, ord)
    left join jobs j on j.id = i.job_id and i.run_id is not null
    left join webhook_inbox e on e.id = j.event_id
    left join tenants t on t.id = j.tenant_id
    left join sources s on s.name = j.source
   order by i.ord;
end $$;
COMMENT ON FUNCTION relayforge.start_jobs(p_job_ids uuid[], p_attempts integer[], p_lease interval, p_max_starts integer, p_now timestamp with time zone) IS 'Starts the runs that messages ask for; answers each with its outcome and, where started, the run id and the event.';
CREATE FUNCTION relayforge.sweep_leases(p_limit integer, p_max_starts integer, p_now timestamp with time zone DEFAULT clock_timestamp()) RETURNS TABLE(rescued integer, poisoned integer)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
#variable_conflict use_column
declare
  v_rescued uuid[];
  v_poisoned uuid[];
begin
  if not pg_try_advisory_xact_lock(hashtextextended('relayforge.sweep_leases', 0)) then
    return query select 0, 0;
    return;
  end if;
  select array_agg(q.job_id) filter (where q.starts < p_max_starts),
         array_agg(q.job_id) filter (where q.starts >= p_max_starts)
    into v_rescued, v_poisoned
    from (
      select o.job_id, o.starts
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
COMMENT ON FUNCTION relayforge.sweep_leases(p_limit integer, p_max_starts integer, p_now timestamp with time zone) IS 'Takes over jobs whose lease has run out; returns how many it put in the outbox again and how many it gave up as poison.';
CREATE FUNCTION relayforge.uuid7(p_at timestamp with time zone, p_seq integer) RETURNS uuid
    LANGUAGE sql PARALLEL SAFE
    AS $$
  select (
    lpad(to_hex(floor(extract(epoch from p_at) * 1000)::bigint), 12, '0')
    || to_hex(28672 + (p_seq & 4095))
    || substr(gen_random_uuid()::text, 20)
  )::uuid
$$;
COMMENT ON FUNCTION relayforge.uuid7(p_at timestamp with time zone, p_seq integer) IS 'A UUIDv7 of the given time; the sequence (its low 12 bits count) orders ids of one millisecond.';
CREATE FUNCTION relayforge.uuid7_floor(p_at timestamp with time zone) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
  select rpad(lpad(to_hex(floor(extract(epoch from p_at) * 1000)::bigint), 12, '0'), 32, '0')::uuid
$$;
COMMENT ON FUNCTION relayforge.uuid7_floor(p_at timestamp with time zone) IS 'The smallest UUIDv7 of the given time''s millisecond.';
CREATE FUNCTION relayforge.uuid7_time(p_id uuid) RETURNS timestamp with time zone
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
  select to_timestamp(('x' || translate(left(p_id::text, 13), '-', ''))::bit(48)::bigint / 1000.0)
$$;
COMMENT ON FUNCTION relayforge.uuid7_time(p_id uuid) IS 'The time in a UUIDv7, to the millisecond.';
CREATE FUNCTION relayforge.wake_relays(p_earliest_due timestamp with time zone DEFAULT clock_timestamp()) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
declare
  v_woken integer;
begin
  -- Usually nobody sleeps under load: an unlocked look is all it costs.
  if not exists (select 1 from relay_sleepers s where s.wakes_at > p_earliest_due) then
    return 0;
  end if;
  with asleep as (
    select s.relay_id from relay_sleepers s where s.wakes_at > p_earliest_due for update skip locked
  )
  delete from relay_sleepers s using asleep a where s.relay_id = a.relay_id;
  get diagnostics v_woken = row_count;
  if v_woken > 0 then
    perform pg_notify('relayforge_outbox', '');
  end if;
  return v_woken;
end $$;
COMMENT ON FUNCTION relayforge.wake_relays(p_earliest_due timestamp with time zone) IS 'Wakes the relays that would sleep past the given time; call it after the commit that wrote the messages.';
CREATE FUNCTION store.notify_config_change() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'store', 'pg_temp'
    AS $$
begin
  perform pg_notify('relayforge_config', tg_table_name);
  return null;
end $$;
COMMENT ON FUNCTION store.notify_config_change() IS 'Tells the services that tenants, sources or secrets have changed.';
CREATE TABLE store.job_log (
    id uuid NOT NULL,
    job_id uuid NOT NULL,
    what text NOT NULL,
    attempt smallint NOT NULL,
    detail text,
    CONSTRAINT job_log_what_known CHECK ((what = ANY (ARRAY['published'::text, 'failed'::text, 'rescued'::text, 'dead'::text, 'reprocessed'::text, 'cancelled'::text, 'held'::text, 'released'::text])))
)
PARTITION BY RANGE (id);
COMMENT ON TABLE store.job_log IS 'What happened to a job between its creation and its end. Append-only.';
COMMENT ON COLUMN store.job_log.id IS 'UUIDv7 from the database''s clock; its time is when it happened.';
COMMENT ON COLUMN store.job_log.job_id IS 'The job.';
COMMENT ON COLUMN store.job_log.what IS 'published (confirmed by the broker), failed, rescued (lease ran out), dead, or an operator''s verb.';
COMMENT ON COLUMN store.job_log.attempt IS 'The attempt it happened to.';
COMMENT ON COLUMN store.job_log.detail IS 'The error, the cause or the reason; at most 2,000 characters.';
CREATE TABLE store.jobs (
    id uuid NOT NULL,
    event_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    source text NOT NULL,
    kind text NOT NULL,
    event_type text NOT NULL,
    dedup_key text,
    correlation_id text NOT NULL,
    outcome text,
    attempts smallint,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    last_error text,
    CONSTRAINT jobs_outcome_known CHECK ((outcome = ANY (ARRAY['succeeded'::text, 'dead_lettered'::text, 'cancelled'::text])))
)
PARTITION BY RANGE (id);
COMMENT ON TABLE store.jobs IS 'One piece of work for one event. Written when it is made and once more when it ends; between, open_jobs has its state.';
COMMENT ON COLUMN store.jobs.id IS 'UUIDv7 from the database''s clock; its time is when the job was made.';
COMMENT ON COLUMN store.jobs.event_id IS 'The event it is for (webhook_inbox.id). One event may have several jobs.';
COMMENT ON COLUMN store.jobs.tenant_id IS 'The tenant of the event.';
COMMENT ON COLUMN store.jobs.source IS 'The source of the event.';
COMMENT ON COLUMN store.jobs.kind IS 'The handler that runs it.';
COMMENT ON COLUMN store.jobs.event_type IS 'The type of the event.';
COMMENT ON COLUMN store.jobs.dedup_key IS 'provider:<event id> or hash:<sha-256 of the body>; null where the source does not deduplicate.';
COMMENT ON COLUMN store.jobs.correlation_id IS 'That of the delivery that made it.';
COMMENT ON COLUMN store.jobs.outcome IS 'succeeded, dead_lettered or cancelled; null while the job is open.';
COMMENT ON COLUMN store.jobs.attempts IS 'Runs that were started; null while the job is open.';
COMMENT ON COLUMN store.jobs.started_at IS 'When its last run started.';
COMMENT ON COLUMN store.jobs.finished_at IS 'When it reached its outcome.';
COMMENT ON COLUMN store.jobs.last_error IS 'What the last failed run said, at most 2,000 characters.';
CREATE TABLE store.open_jobs (
    job_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    state text NOT NULL,
    attempt smallint NOT NULL,
    attempt_base smallint DEFAULT 0 NOT NULL,
    starts smallint DEFAULT 0 NOT NULL,
    run_id uuid,
    lease_until timestamp with time zone,
    started_at timestamp with time zone,
    due_at timestamp with time zone NOT NULL,
    CONSTRAINT open_jobs_run_has_lease CHECK (((state = 'processing'::text) = ((run_id IS NOT NULL) AND (lease_until IS NOT NULL)))),
    CONSTRAINT open_jobs_state_known CHECK ((state = ANY (ARRAY['queued'::text, 'processing'::text, 'retrying'::text, 'held'::text])))
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.01', autovacuum_vacuum_threshold='1000', autovacuum_vacuum_cost_delay='0');
COMMENT ON TABLE store.open_jobs IS 'One narrow row for each job that has no outcome yet. Only its key is indexed, so that state changes stay HOT.';
COMMENT ON COLUMN store.open_jobs.job_id IS 'The job.';
COMMENT ON COLUMN store.open_jobs.tenant_id IS 'Its tenant.';
COMMENT ON COLUMN store.open_jobs.state IS 'queued, processing (a run holds the lease), retrying (waits for due_at) or held (by an operator).';
COMMENT ON COLUMN store.open_jobs.attempt IS 'The number of the current attempt, from 1. A message of another attempt is stale.';
COMMENT ON COLUMN store.open_jobs.attempt_base IS 'Attempts that do not count against the budget of attempts: runs that were lost, and those before a reprocessing.';
COMMENT ON COLUMN store.open_jobs.starts IS 'Runs in a row that ended without an outcome: the poison counter.';
COMMENT ON COLUMN store.open_jobs.run_id IS 'Fencing token of the running attempt; only its holder may finish it.';
COMMENT ON COLUMN store.open_jobs.lease_until IS 'Until when the run is taken to be alive, by the database''s clock.';
COMMENT ON COLUMN store.open_jobs.started_at IS 'When the last run started.';
COMMENT ON COLUMN store.open_jobs.due_at IS 'Not to be started before.';
CREATE TABLE store.tenants (
    id uuid NOT NULL,
    slug text NOT NULL,
    name text NOT NULL,
    status text DEFAULT 'active'::text NOT NULL,
    daily_quota bigint,
    rate_per_second integer,
    rate_burst integer,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT tenants_daily_quota_positive CHECK ((daily_quota >= 0)),
    CONSTRAINT tenants_name_length CHECK (((length(name) >= 1) AND (length(name) <= 200))),
    CONSTRAINT tenants_rate_positive CHECK (((rate_per_second > 0) AND (rate_burst > 0))),
    CONSTRAINT tenants_slug_form CHECK ((slug ~ '^[a-z0-9_-]{1,63}$'::text)),
    CONSTRAINT tenants_status_known CHECK ((status = ANY (ARRAY['active'::text, 'suspended'::text])))
);
COMMENT ON TABLE store.tenants IS 'The customers whose webhooks are taken in. Addressed by id or slug.';
COMMENT ON COLUMN store.tenants.id IS 'UUIDv7, or the all-zero default tenant.';
COMMENT ON COLUMN store.tenants.slug IS 'Name in URLs and routing keys, 1-63 of [a-z0-9_-].';
COMMENT ON COLUMN store.tenants.name IS 'Name for people.';
COMMENT ON COLUMN store.tenants.status IS 'active, or suspended: its webhooks are answered 403.';
COMMENT ON COLUMN store.tenants.daily_quota IS 'New events accepted per UTC day; null means HARDENING__TENANT_DAILY_QUOTA.';
COMMENT ON COLUMN store.tenants.rate_per_second IS 'Signed requests per second; null means HARDENING__TENANT_RATE_LIMIT_PER_SECOND.';
COMMENT ON COLUMN store.tenants.rate_burst IS 'Signed requests at once; null means HARDENING__TENANT_RATE_LIMIT_BURST.';
COMMENT ON COLUMN store.tenants.created_at IS 'When the tenant was made.';
COMMENT ON COLUMN store.tenants.updated_at IS 'When the tenant was last changed.';
CREATE VIEW relayforge.job_overview AS
 SELECT j.id AS job_id,
    t.slug AS tenant,
    j.source,
    j.event_type,
    COALESCE(o.state, j.outcome) AS status,
    COALESCE((j.attempts)::integer,
        CASE
            WHEN (o.started_at IS NULL) THEN 0
            WHEN (o.state = 'retrying'::text) THEN (o.attempt - 1)
            ELSE (o.attempt)::integer
        END) AS attempts,
    relayforge.uuid7_time(j.id) AS created_at,
    j.finished_at,
    COALESCE(j.last_error, l.detail) AS last_error,
    j.event_id,
    j.correlation_id
   FROM (((store.jobs j
     LEFT JOIN store.tenants t ON ((t.id = j.tenant_id)))
     LEFT JOIN store.open_jobs o ON ((o.job_id = j.id)))
     LEFT JOIN LATERAL ( SELECT l_1.detail
           FROM store.job_log l_1
          WHERE ((l_1.job_id = j.id) AND (l_1.what = 'failed'::text) AND (l_1.id >= relayforge.uuid7_floor(relayforge.uuid7_time(j.id))) AND (o.job_id IS NOT NULL))
          ORDER BY l_1.id DESC
         LIMIT 1) l ON (true));
COMMENT ON VIEW relayforge.job_overview IS 'Every job with its present state. Narrow it by job_id or time (job_id >= relayforge.uuid7_floor(…)).';
COMMENT ON COLUMN relayforge.job_overview.status IS 'queued, processing, retrying, held, or the outcome: succeeded, dead_lettered, cancelled.';
COMMENT ON COLUMN relayforge.job_overview.attempts IS 'Runs that were started.';
COMMENT ON COLUMN relayforge.job_overview.last_error IS 'What the last failed run said.';
CREATE VIEW relayforge.schema_version AS
 SELECT c.epoch,
    c.fingerprint,
    c.migration
   FROM relayforge.schema_code() c(epoch, fingerprint, migration);
COMMENT ON VIEW relayforge.schema_version IS 'The code epoch and fingerprint and the newest migration.';
CREATE TABLE store.admin_api_keys (
    id uuid NOT NULL,
    name text NOT NULL,
    role text NOT NULL,
    key_sha256 bytea NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    revoked_at timestamp with time zone,
    CONSTRAINT admin_api_keys_key_sha256_length CHECK ((length(key_sha256) = 32)),
    CONSTRAINT admin_api_keys_name_length CHECK (((length(name) >= 1) AND (length(name) <= 200))),
    CONSTRAINT admin_api_keys_role_known CHECK ((role = ANY (ARRAY['viewer'::text, 'operator'::text, 'admin'::text])))
);
COMMENT ON TABLE store.admin_api_keys IS 'Keys of the admin API. Only their hashes: a key is random, 32 bytes, so a fast hash is enough.';
COMMENT ON COLUMN store.admin_api_keys.id IS 'UUIDv7 of the key, safe to show.';
COMMENT ON COLUMN store.admin_api_keys.name IS 'Whose key it is, for people.';
COMMENT ON COLUMN store.admin_api_keys.role IS 'viewer reads, operator acts on jobs, admin configures.';
COMMENT ON COLUMN store.admin_api_keys.key_sha256 IS 'SHA-256 of the key.';
COMMENT ON COLUMN store.admin_api_keys.created_at IS 'When it was made.';
COMMENT ON COLUMN store.admin_api_keys.revoked_at IS 'From when on it opens nothing; null while it is valid.';
CREATE TABLE store.code_objects (
    path text NOT NULL,
    name text NOT NULL,
    checksum bytea NOT NULL
);
COMMENT ON TABLE store.code_objects IS 'The functions, procedures and views that the migrator made, with the checksum of the file each came from.';
COMMENT ON COLUMN store.code_objects.path IS 'The file, below the package sql.';
COMMENT ON COLUMN store.code_objects.name IS 'The object, in schema relayforge.';
COMMENT ON COLUMN store.code_objects.checksum IS 'SHA-256 of the file: an unchanged object is not touched.';
CREATE TABLE store.dead_jobs (
    job_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    source text NOT NULL,
    cause text NOT NULL,
    dead_at timestamp with time zone NOT NULL,
    CONSTRAINT dead_jobs_cause_known CHECK ((cause = ANY (ARRAY['permanent'::text, 'exhausted'::text, 'poison'::text, 'expired'::text, 'unpublishable'::text])))
);
COMMENT ON TABLE store.dead_jobs IS 'Jobs that were given up and not reprocessed since.';
COMMENT ON COLUMN store.dead_jobs.job_id IS 'The job.';
COMMENT ON COLUMN store.dead_jobs.tenant_id IS 'Its tenant.';
COMMENT ON COLUMN store.dead_jobs.source IS 'Its source.';
COMMENT ON COLUMN store.dead_jobs.cause IS 'permanent: the handler said so; exhausted: no attempts left; poison: runs kept ending without an outcome; expired: its event is about to be dropped; unpublishable: no message can be made of it.';
COMMENT ON COLUMN store.dead_jobs.dead_at IS 'When it was given up.';
CREATE TABLE store.dedup_ledger (
    digest bytea NOT NULL,
    event_id uuid NOT NULL,
    duplicates integer DEFAULT 0 NOT NULL,
    by_hash boolean NOT NULL,
    CONSTRAINT dedup_ledger_digest_length CHECK ((length(digest) = 16))
)
PARTITION BY HASH (digest);
COMMENT ON TABLE store.dedup_ledger IS 'Which events are known. Its row is the lock that two deliveries of one event meet at. Expiry is read from the time in event_id.';
COMMENT ON COLUMN store.dedup_ledger.digest IS 'First 16 bytes of SHA-256 over tenant, source and dedup key: a text key would cost 2.5 times the space.';
COMMENT ON COLUMN store.dedup_ledger.event_id IS 'The event: the id of its first delivery.';
COMMENT ON COLUMN store.dedup_ledger.duplicates IS 'Deliveries of it that were answered as duplicates.';
COMMENT ON COLUMN store.dedup_ledger.by_hash IS 'Whether the key is a hash of the body: such a key lives for DEDUP__HASH_WINDOW_SECONDS, others for DEDUP__WINDOW_DAYS.';
CREATE TABLE store.outbox_messages (
    id uuid NOT NULL,
    target text NOT NULL,
    job_id uuid NOT NULL,
    event_id uuid NOT NULL,
    attempt smallint NOT NULL,
    next_attempt_at timestamp with time zone NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    last_error text,
    CONSTRAINT outbox_messages_target_known CHECK ((target = ANY (ARRAY['jobs'::text, 'events'::text, 'dlq'::text])))
)
WITH (fillfactor='80', autovacuum_vacuum_scale_factor='0.01', autovacuum_vacuum_threshold='1000', autovacuum_vacuum_cost_delay='0');
COMMENT ON TABLE store.outbox_messages IS 'A queue: what is to be published. A row leaves it in the transaction that claimed it, once the broker has confirmed.';
COMMENT ON COLUMN store.outbox_messages.id IS 'UUIDv7 from the database''s clock.';
COMMENT ON COLUMN store.outbox_messages.target IS 'jobs: the work queue; events: the topic exchange for others; dlq: the copy of a job that was given up.';
COMMENT ON COLUMN store.outbox_messages.job_id IS 'The job.';
COMMENT ON COLUMN store.outbox_messages.event_id IS 'Its event, whose body and headers make the message.';
COMMENT ON COLUMN store.outbox_messages.attempt IS 'The attempt that the message asks for.';
COMMENT ON COLUMN store.outbox_messages.next_attempt_at IS 'Not to be published before: the due time of a retry, or the back-off after a refusal of the broker.';
COMMENT ON COLUMN store.outbox_messages.attempts IS 'Times that publishing it failed.';
COMMENT ON COLUMN store.outbox_messages.last_error IS 'Why it failed last: nacked, returned as unroutable, timed out, lost.';
CREATE TABLE store.refinery_schema_history (
    version integer NOT NULL,
    name character varying(255),
    applied_on character varying(255),
    checksum character varying(255)
);
CREATE UNLOGGED TABLE store.relay_sleepers (
    relay_id uuid NOT NULL,
    wakes_at timestamp with time zone NOT NULL
);
COMMENT ON TABLE store.relay_sleepers IS 'Relays that have found nothing to do. A writer notifies only if one of them would sleep past its row. Unlogged: after a crash every relay polls once.';
COMMENT ON COLUMN store.relay_sleepers.relay_id IS 'The relay, named anew at each start.';
COMMENT ON COLUMN store.relay_sleepers.wakes_at IS 'When it looks again by itself.';
CREATE TABLE store.sources (
    name text NOT NULL,
    kind text NOT NULL,
    dedup text DEFAULT 'event_id_or_hash'::text NOT NULL,
    replay_policy text DEFAULT 'absorb'::text NOT NULL,
    job_kind text DEFAULT 'log'::text NOT NULL,
    fanout boolean DEFAULT false NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT sources_dedup_known CHECK ((dedup = ANY (ARRAY['event_id'::text, 'event_id_or_hash'::text, 'none'::text]))),
    CONSTRAINT sources_job_kind_form CHECK ((job_kind ~ '^[a-z0-9_.-]{1,63}$'::text)),
    CONSTRAINT sources_kind_known CHECK ((kind = ANY (ARRAY['generic'::text, 'github'::text, 'stripe'::text]))),
    CONSTRAINT sources_name_form CHECK ((name ~ '^[a-z0-9_-]{1,63}$'::text)),
    CONSTRAINT sources_replay_needs_dedup CHECK (((dedup <> 'none'::text) OR (replay_policy = 'absorb'::text))),
    CONSTRAINT sources_replay_policy_known CHECK ((replay_policy = ANY (ARRAY['reject'::text, 'reject_all'::text, 'absorb'::text])))
);
COMMENT ON TABLE store.sources IS 'The {source} of POST /webhooks/{source}: how a webhook is verified, deduplicated and turned into a job.';
COMMENT ON COLUMN store.sources.name IS 'Name in URLs, 1-63 of [a-z0-9_-].';
COMMENT ON COLUMN store.sources.kind IS 'Signature scheme and payload form: generic (X-Signature), github (X-Hub-Signature-256) or stripe (Stripe-Signature).';
COMMENT ON COLUMN store.sources.dedup IS 'event_id: the provider event id is required; event_id_or_hash: the hash of the body stands in for it; none: each delivery is an event.';
COMMENT ON COLUMN store.sources.replay_policy IS 'reject: a known event is a replay unless its signature is newer; reject_all: always; absorb: never, it is a duplicate.';
COMMENT ON COLUMN store.sources.job_kind IS 'The consumer handler that its jobs run.';
COMMENT ON COLUMN store.sources.fanout IS 'Whether each new event is also published to the topic exchange <prefix>.events.';
COMMENT ON COLUMN store.sources.created_at IS 'When the source was made.';
COMMENT ON COLUMN store.sources.updated_at IS 'When the source was last changed.';
CREATE TABLE store.stripe_event_idempotency (
    tenant_id uuid NOT NULL,
    source text NOT NULL,
    provider_event_id text NOT NULL,
    event_id uuid NOT NULL,
    signature_timestamp timestamp with time zone NOT NULL
);
COMMENT ON TABLE store.stripe_event_idempotency IS 'The newest signature seen on each event of a source that rejects replays (stripe, unless told otherwise).';
COMMENT ON COLUMN store.stripe_event_idempotency.tenant_id IS 'The tenant.';
COMMENT ON COLUMN store.stripe_event_idempotency.source IS 'The source. In the key because a provider sends one event to several endpoints of a tenant, and the second is no replay of the first.';
COMMENT ON COLUMN store.stripe_event_idempotency.provider_event_id IS 'The provider''s id of the event.';
COMMENT ON COLUMN store.stripe_event_idempotency.event_id IS 'Our id of the event.';
COMMENT ON COLUMN store.stripe_event_idempotency.signature_timestamp IS 'A delivery that was not signed after this is a replay. -infinity where the scheme has no timestamp.';
CREATE TABLE store.tenant_daily_quota_usage (
    tenant_id uuid NOT NULL,
    day date NOT NULL,
    used bigint NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='500');
COMMENT ON TABLE store.tenant_daily_quota_usage IS 'New events accepted per tenant and UTC day. Ingest holds the row''s lock for its transaction.';
COMMENT ON COLUMN store.tenant_daily_quota_usage.tenant_id IS 'The tenant.';
COMMENT ON COLUMN store.tenant_daily_quota_usage.day IS 'The UTC day, by the database''s clock.';
COMMENT ON COLUMN store.tenant_daily_quota_usage.used IS 'New events accepted that day; a duplicate or a rejection adds nothing.';
CREATE TABLE store.tenant_provider_secrets (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    source text NOT NULL,
    ciphertext bytea NOT NULL,
    master_key_id text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    retired_at timestamp with time zone,
    CONSTRAINT tenant_provider_secrets_ciphertext_length CHECK (((length(ciphertext) >= 29) AND (length(ciphertext) <= 4096))),
    CONSTRAINT tenant_provider_secrets_master_key_id_form CHECK ((master_key_id ~ '^[0-9a-f]{16}$'::text))
);
COMMENT ON TABLE store.tenant_provider_secrets IS 'Signing secrets, sealed. Several versions may be valid at once while one is rotated out.';
COMMENT ON COLUMN store.tenant_provider_secrets.id IS 'UUIDv7; the newest of a (tenant, source) is the current version.';
COMMENT ON COLUMN store.tenant_provider_secrets.tenant_id IS 'Whose secret it is.';
COMMENT ON COLUMN store.tenant_provider_secrets.source IS 'Whose webhooks it verifies.';
COMMENT ON COLUMN store.tenant_provider_secrets.ciphertext IS 'AES-256-GCM: 12 bytes nonce, then ciphertext and tag; bound to tenant, source and id as associated data.';
COMMENT ON COLUMN store.tenant_provider_secrets.master_key_id IS 'First 8 bytes of SHA-256 of the master key that sealed it, in hex.';
COMMENT ON COLUMN store.tenant_provider_secrets.created_at IS 'When the version was added.';
COMMENT ON COLUMN store.tenant_provider_secrets.retired_at IS 'From when on it verifies nothing; null while it is valid.';
CREATE TABLE store.webhook_inbox (
    id uuid NOT NULL,
    event_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    source text NOT NULL,
    provider_event_id text,
    event_type text NOT NULL,
    body bytea,
    body_sha256 bytea NOT NULL,
    headers jsonb NOT NULL,
    signature_timestamp timestamp with time zone,
    secret_id uuid,
    correlation_id text NOT NULL,
    trace_context jsonb
)
PARTITION BY RANGE (id);
COMMENT ON TABLE store.webhook_inbox IS 'Every webhook that was answered 2xx, as it came. Append-only.';
COMMENT ON COLUMN store.webhook_inbox.id IS 'UUIDv7 of this delivery, from the database''s clock; its time is when it was received.';
COMMENT ON COLUMN store.webhook_inbox.event_id IS 'The event: the id of its first delivery. Equal to id on that one.';
COMMENT ON COLUMN store.webhook_inbox.tenant_id IS 'The tenant it was sent to.';
COMMENT ON COLUMN store.webhook_inbox.source IS 'The source it was sent to.';
COMMENT ON COLUMN store.webhook_inbox.provider_event_id IS 'The event''s id in the provider''s own numbering, if it has one.';
COMMENT ON COLUMN store.webhook_inbox.event_type IS 'What happened, in the provider''s words (for example invoice.paid).';
COMMENT ON COLUMN store.webhook_inbox.body IS 'The bytes that were signed. Null on a duplicate whose bytes are those of the first delivery.';
COMMENT ON COLUMN store.webhook_inbox.body_sha256 IS 'SHA-256 of the bytes.';
COMMENT ON COLUMN store.webhook_inbox.headers IS 'Allow-listed request headers; no signature, no credential.';
COMMENT ON COLUMN store.webhook_inbox.signature_timestamp IS 'When the provider signed it, where its scheme says so.';
COMMENT ON COLUMN store.webhook_inbox.secret_id IS 'The secret version that verified it; null for one from the environment.';
COMMENT ON COLUMN store.webhook_inbox.correlation_id IS 'Joins log lines, from the request to the last retry.';
COMMENT ON COLUMN store.webhook_inbox.trace_context IS 'W3C traceparent, tracestate and baggage, if the request was traced.';
CREATE TABLE store.webhook_rejections (
    hour timestamp with time zone NOT NULL,
    cause text NOT NULL,
    source text NOT NULL,
    tenant_id uuid,
    count bigint NOT NULL,
    last_at timestamp with time zone NOT NULL,
    CONSTRAINT webhook_rejections_cause_form CHECK ((cause ~ '^[a-z_]{1,63}$'::text))
);
COMMENT ON TABLE store.webhook_rejections IS 'How many webhooks were refused, per hour and cause. Counts only: nothing of what an unsigned caller sent.';
COMMENT ON COLUMN store.webhook_rejections.hour IS 'Start of the UTC hour.';
COMMENT ON COLUMN store.webhook_rejections.cause IS 'The code of the problem that was answered (for example signature_mismatch).';
COMMENT ON COLUMN store.webhook_rejections.source IS 'The source, or an empty text where the request named none that exists.';
COMMENT ON COLUMN store.webhook_rejections.tenant_id IS 'The tenant, null where the request named none that exists.';
COMMENT ON COLUMN store.webhook_rejections.count IS 'Rejections in that hour.';
COMMENT ON COLUMN store.webhook_rejections.last_at IS 'When the last of them was counted.';
ALTER TABLE ONLY store.admin_api_keys
    ADD CONSTRAINT admin_api_keys_key_sha256_key UNIQUE (key_sha256);
ALTER TABLE ONLY store.admin_api_keys
    ADD CONSTRAINT admin_api_keys_pkey PRIMARY KEY (id);
ALTER TABLE ONLY store.code_objects
    ADD CONSTRAINT code_objects_name_key UNIQUE (name);
ALTER TABLE ONLY store.code_objects
    ADD CONSTRAINT code_objects_pkey PRIMARY KEY (path);
ALTER TABLE ONLY store.dead_jobs
    ADD CONSTRAINT dead_jobs_pkey PRIMARY KEY (job_id);
ALTER TABLE ONLY store.dedup_ledger
    ADD CONSTRAINT dedup_ledger_pkey PRIMARY KEY (digest);
ALTER TABLE ONLY store.job_log
    ADD CONSTRAINT job_log_pkey PRIMARY KEY (id);
ALTER TABLE ONLY store.jobs
    ADD CONSTRAINT jobs_pkey PRIMARY KEY (id);
ALTER TABLE ONLY store.open_jobs
    ADD CONSTRAINT open_jobs_pkey PRIMARY KEY (job_id);
ALTER TABLE ONLY store.outbox_messages
    ADD CONSTRAINT outbox_messages_pkey PRIMARY KEY (id);
ALTER TABLE ONLY store.refinery_schema_history
    ADD CONSTRAINT refinery_schema_history_pkey PRIMARY KEY (version);
ALTER TABLE ONLY store.relay_sleepers
    ADD CONSTRAINT relay_sleepers_pkey PRIMARY KEY (relay_id);
ALTER TABLE ONLY store.sources
    ADD CONSTRAINT sources_pkey PRIMARY KEY (name);
ALTER TABLE ONLY store.stripe_event_idempotency
    ADD CONSTRAINT stripe_event_idempotency_pkey PRIMARY KEY (tenant_id, source, provider_event_id);
ALTER TABLE ONLY store.tenant_daily_quota_usage
    ADD CONSTRAINT tenant_daily_quota_usage_pkey PRIMARY KEY (tenant_id, day);
ALTER TABLE ONLY store.tenant_provider_secrets
    ADD CONSTRAINT tenant_provider_secrets_pkey PRIMARY KEY (id);
ALTER TABLE ONLY store.tenants
    ADD CONSTRAINT tenants_pkey PRIMARY KEY (id);
ALTER TABLE ONLY store.tenants
    ADD CONSTRAINT tenants_slug_key UNIQUE (slug);
ALTER TABLE ONLY store.webhook_inbox
    ADD CONSTRAINT webhook_inbox_pkey PRIMARY KEY (id);
ALTER TABLE ONLY store.webhook_rejections
    ADD CONSTRAINT webhook_rejections_key UNIQUE NULLS NOT DISTINCT (hour, cause, source, tenant_id);
CREATE INDEX dead_jobs_tenant_id_dead_at_idx ON store.dead_jobs USING btree (tenant_id, dead_at);
CREATE INDEX job_log_job_id_idx ON ONLY store.job_log USING btree (job_id);
CREATE INDEX jobs_event_id_idx ON ONLY store.jobs USING btree (event_id);
CREATE INDEX jobs_tenant_id_id_idx ON ONLY store.jobs USING btree (tenant_id, id);
CREATE INDEX outbox_messages_claim_idx ON store.outbox_messages USING btree (target, next_attempt_at, id);
CREATE INDEX tenant_provider_secrets_tenant_id_source_idx ON store.tenant_provider_secrets USING btree (tenant_id, source);
CREATE INDEX webhook_inbox_duplicates_idx ON ONLY store.webhook_inbox USING btree (event_id) WHERE (event_id <> id);
CREATE TRIGGER sources_changed AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE ON store.sources FOR EACH STATEMENT EXECUTE FUNCTION store.notify_config_change();
CREATE TRIGGER tenant_provider_secrets_changed AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE ON store.tenant_provider_secrets FOR EACH STATEMENT EXECUTE FUNCTION store.notify_config_change();
CREATE TRIGGER tenants_changed AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE ON store.tenants FOR EACH STATEMENT EXECUTE FUNCTION store.notify_config_change();
ALTER TABLE ONLY store.tenant_provider_secrets
    ADD CONSTRAINT tenant_provider_secrets_source_fkey FOREIGN KEY (source) REFERENCES store.sources(name);
ALTER TABLE ONLY store.tenant_provider_secrets
    ADD CONSTRAINT tenant_provider_secrets_tenant_fkey FOREIGN KEY (tenant_id) REFERENCES store.tenants(id);
GRANT USAGE ON SCHEMA relayforge TO relayforge_api;
GRANT USAGE ON SCHEMA relayforge TO relayforge_relay;
GRANT USAGE ON SCHEMA relayforge TO relayforge_consumer;
GRANT USAGE ON SCHEMA relayforge TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.abandon_outbox(p_ids uuid[], p_reasons text[], p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.abandon_outbox(p_ids uuid[], p_reasons text[], p_now timestamp with time zone) TO relayforge_relay;
REVOKE ALL ON FUNCTION relayforge.add_secret(p_id uuid, p_tenant_id uuid, p_source text, p_ciphertext bytea, p_master_key_id text) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.backoff(p_base interval, p_cap interval, p_try integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.claim_outbox(p_target text, p_limit integer, p_from_at timestamp with time zone, p_from_id uuid, p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.claim_outbox(p_target text, p_limit integer, p_from_at timestamp with time zone, p_from_id uuid, p_now timestamp with time zone) TO relayforge_relay;
REVOKE ALL ON PROCEDURE relayforge.complete_jobs(IN p_job_ids uuid[], IN p_run_ids uuid[], INOUT p_completed uuid[], IN p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON PROCEDURE relayforge.complete_jobs(IN p_job_ids uuid[], IN p_run_ids uuid[], INOUT p_completed uuid[], IN p_now timestamp with time zone) TO relayforge_consumer;
REVOKE ALL ON FUNCTION relayforge.count_outbox() FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.count_outbox() TO relayforge_relay;
REVOKE ALL ON FUNCTION relayforge.create_admin_key(p_name text, p_role text, p_key_sha256 bytea) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.create_source(p_name text, p_kind text, p_dedup text, p_replay_policy text, p_job_kind text, p_fanout boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.create_tenant(p_slug text, p_name text, p_id uuid) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.dead_letter_jobs(p_job_ids uuid[], p_causes text[], p_errors text[], p_now timestamp with time zone) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.ensure_partitions(p_interval text, p_days_ahead integer, p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.ensure_partitions(p_interval text, p_days_ahead integer, p_now timestamp with time zone) TO relayforge_api;
GRANT ALL ON FUNCTION relayforge.ensure_partitions(p_interval text, p_days_ahead integer, p_now timestamp with time zone) TO relayforge_relay;
GRANT ALL ON FUNCTION relayforge.ensure_partitions(p_interval text, p_days_ahead integer, p_now timestamp with time zone) TO relayforge_consumer;
GRANT ALL ON FUNCTION relayforge.ensure_partitions(p_interval text, p_days_ahead integer, p_now timestamp with time zone) TO relayforge_dba;
REVOKE ALL ON PROCEDURE relayforge.fail_jobs(IN p_job_ids uuid[], IN p_run_ids uuid[], IN p_errors text[], IN p_retryable boolean[], IN p_retry_after_seconds double precision[], IN p_max_attempts integer, IN p_backoff_base interval, IN p_backoff_cap interval, INOUT p_failed uuid[], INOUT p_outcomes text[], INOUT p_next_due timestamp with time zone, IN p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON PROCEDURE relayforge.fail_jobs(IN p_job_ids uuid[], IN p_run_ids uuid[], IN p_errors text[], IN p_retryable boolean[], IN p_retry_after_seconds double precision[], IN p_max_attempts integer, IN p_backoff_base interval, IN p_backoff_cap interval, INOUT p_failed uuid[], INOUT p_outcomes text[], INOUT p_next_due timestamp with time zone, IN p_now timestamp with time zone) TO relayforge_consumer;
REVOKE ALL ON FUNCTION relayforge.find_events(p_tenant_id uuid, p_source text, p_provider_event_ids text[], p_since timestamp with time zone) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.ingest_webhooks(p_tenant_ids uuid[], p_sources text[], p_provider_event_ids text[], p_event_types text[], p_bodies bytea[], p_headers jsonb[], p_signature_timestamps timestamp with time zone[], p_secret_ids uuid[], p_correlation_ids text[], p_trace_contexts jsonb[], p_default_daily_quota bigint, p_dedup_window interval, p_hash_window interval, p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.ingest_webhooks(p_tenant_ids uuid[], p_sources text[], p_provider_event_ids text[], p_event_types text[], p_bodies bytea[], p_headers jsonb[], p_signature_timestamps timestamp with time zone[], p_secret_ids uuid[], p_correlation_ids text[], p_trace_contexts jsonb[], p_default_daily_quota bigint, p_dedup_window interval, p_hash_window interval, p_now timestamp with time zone) TO relayforge_api;
REVOKE ALL ON FUNCTION relayforge.load_secrets(p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.load_secrets(p_now timestamp with time zone) TO relayforge_api;
REVOKE ALL ON FUNCTION relayforge.load_sources() FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.load_sources() TO relayforge_api;
REVOKE ALL ON FUNCTION relayforge.load_tenants() FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.load_tenants() TO relayforge_api;
REVOKE ALL ON FUNCTION relayforge.outbox_next_due(p_from_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.outbox_next_due(p_from_at timestamp with time zone) TO relayforge_relay;
REVOKE ALL ON FUNCTION relayforge.record_rejections(p_causes text[], p_sources text[], p_tenant_ids uuid[], p_counts bigint[], p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.record_rejections(p_causes text[], p_sources text[], p_tenant_ids uuid[], p_counts bigint[], p_now timestamp with time zone) TO relayforge_api;
REVOKE ALL ON FUNCTION relayforge.relay_sleep(p_relay_id uuid, p_wakes_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.relay_sleep(p_relay_id uuid, p_wakes_at timestamp with time zone) TO relayforge_relay;
REVOKE ALL ON FUNCTION relayforge.relay_wake(p_relay_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.relay_wake(p_relay_id uuid) TO relayforge_relay;
REVOKE ALL ON PROCEDURE relayforge.renew_leases(IN p_job_ids uuid[], IN p_run_ids uuid[], IN p_lease interval, INOUT p_lost uuid[], IN p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON PROCEDURE relayforge.renew_leases(IN p_job_ids uuid[], IN p_run_ids uuid[], IN p_lease interval, INOUT p_lost uuid[], IN p_now timestamp with time zone) TO relayforge_consumer;
REVOKE ALL ON FUNCTION relayforge.schema_code() FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.schema_code() TO relayforge_api;
GRANT ALL ON FUNCTION relayforge.schema_code() TO relayforge_relay;
GRANT ALL ON FUNCTION relayforge.schema_code() TO relayforge_consumer;
GRANT ALL ON FUNCTION relayforge.schema_code() TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.settle_outbox(p_confirmed uuid[], p_deferred uuid[], p_errors text[], p_backoff_base interval, p_backoff_cap interval, p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.settle_outbox(p_confirmed uuid[], p_deferred uuid[], p_errors text[], p_backoff_base interval, p_backoff_cap interval, p_now timestamp with time zone) TO relayforge_relay;
REVOKE ALL ON FUNCTION relayforge.start_jobs(p_job_ids uuid[], p_attempts integer[], p_lease interval, p_max_starts integer, p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.start_jobs(p_job_ids uuid[], p_attempts integer[], p_lease interval, p_max_starts integer, p_now timestamp with time zone) TO relayforge_consumer;
REVOKE ALL ON FUNCTION relayforge.sweep_leases(p_limit integer, p_max_starts integer, p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.sweep_leases(p_limit integer, p_max_starts integer, p_now timestamp with time zone) TO relayforge_consumer;
REVOKE ALL ON FUNCTION relayforge.uuid7(p_at timestamp with time zone, p_seq integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.uuid7_floor(p_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.uuid7_floor(p_at timestamp with time zone) TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.uuid7_time(p_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.uuid7_time(p_id uuid) TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.wake_relays(p_earliest_due timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.wake_relays(p_earliest_due timestamp with time zone) TO relayforge_api;
GRANT ALL ON FUNCTION relayforge.wake_relays(p_earliest_due timestamp with time zone) TO relayforge_relay;
GRANT ALL ON FUNCTION relayforge.wake_relays(p_earliest_due timestamp with time zone) TO relayforge_consumer;
REVOKE ALL ON FUNCTION store.notify_config_change() FROM PUBLIC;
GRANT SELECT ON TABLE relayforge.job_overview TO relayforge_dba;
GRANT SELECT ON TABLE relayforge.schema_version TO relayforge_dba;
