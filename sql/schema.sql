SELECT pg_catalog.set_config('search_path', '', false);
CREATE SCHEMA relayforge;
CREATE SCHEMA store;
COMMENT ON SCHEMA store IS 'Tables of Relayforge. Only functions of schema relayforge reach them.';
CREATE FUNCTION relayforge.abandon_outbox(p_ids uuid[], p_reasons text[], p_now timestamp with time zone DEFAULT clock_timestamp()) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    AS $$
declare
  v_job_ids uuid[];
  v_reasons text[];
begin
  -- The target is looked at last: an index begins with it, and has all messages of a target.
  select array_agg(o.job_id) filter (where o.target in ('jobs', 'retries')) into v_job_ids
    from outbox_messages o
   where o.id = any (p_ids);
  perform 1 from open_jobs j where j.job_id = any (v_job_ids) order by j.job_id for no key update;
  -- Only now, with the jobs locked: one that has started or was cancelled meanwhile is let be.
  select array_agg(o.job_id), array_agg(a.reason)
    into v_job_ids, v_reasons
    from unnest(p_ids, p_reasons) a(id, reason)
   cross join lateral (
     select o.job_id, o.attempt, o.target from outbox_messages o where o.id = a.id offset 0
   ) o
   cross join lateral (
     select 1
       from open_jobs j
      where j.job_id = o.job_id and j.attempt = o.attempt and j.state in ('queued', 'retrying', 'held')
     offset 0
   ) j
   where o.target in ('jobs', 'retries');
  if v_job_ids is not null then
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
CREATE TABLE store.admin_audit_log (
    id uuid NOT NULL,
    actor text NOT NULL,
    db_user text NOT NULL,
    action text NOT NULL,
    target text NOT NULL,
    reason text NOT NULL,
    detail jsonb NOT NULL,
    CONSTRAINT admin_audit_log_actor_length CHECK (((length(actor) >= 1) AND (length(actor) <= 200))),
    CONSTRAINT admin_audit_log_reason_length CHECK (((length(reason) >= 1) AND (length(reason) <= 2000)))
);
COMMENT ON TABLE store.admin_audit_log IS 'Who changed what, and why. Written in the transaction of the change; append-only for every role.';
COMMENT ON COLUMN store.admin_audit_log.id IS 'UUIDv7 from the database''s clock; its time is when it happened.';
COMMENT ON COLUMN store.admin_audit_log.actor IS 'Who: the admin key, or the database role when it was done from psql.';
COMMENT ON COLUMN store.admin_audit_log.db_user IS 'The database role that was logged in.';
COMMENT ON COLUMN store.admin_audit_log.action IS 'What was done: the function''s name.';
COMMENT ON COLUMN store.admin_audit_log.target IS 'What it was done to: a kind and an id, for example tenant/0192….';
COMMENT ON COLUMN store.admin_audit_log.reason IS 'Why, in the actor''s words.';
COMMENT ON COLUMN store.admin_audit_log.detail IS 'What else there is to know, for example how many jobs.';
CREATE FUNCTION relayforge.audit_digest(p_previous bytea, p_row store.admin_audit_log) RETURNS bytea
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'store', 'pg_temp'
    AS $$
  select sha256(p_previous || convert_to(
    jsonb_build_array(
      p_row.id, p_row.actor, p_row.db_user, p_row.action, p_row.target, p_row.reason, p_row.detail)::text,
    'UTF8'))
$$;
COMMENT ON FUNCTION relayforge.audit_digest(p_previous bytea, p_row store.admin_audit_log) IS 'SHA-256 over the digest of the seal before and a row of the audit log.';
CREATE FUNCTION relayforge.audit_jobs(p_actor text, p_action text, p_reason text, p_job_ids uuid[], p_outcomes text[], p_what text, p_attempts smallint[], p_now timestamp with time zone) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'store', 'pg_temp'
    AS $$
begin
  if coalesce(cardinality(p_job_ids), 0) not between 1 and 1000 then
    raise exception 'one call takes 1 to 1,000 jobs, not %', coalesce(cardinality(p_job_ids), 0) using errcode = 'RF400';
  end if;
  perform relayforge.write_audit(
    p_actor, p_action,
    case when cardinality(p_job_ids) = 1 then 'job/' || p_job_ids[1] else 'jobs' end,
    p_reason,
    (select jsonb_object_agg(i.job_id, i.outcome) from unnest(p_job_ids, p_outcomes) i(job_id, outcome)));
  insert into job_log (id, job_id, what, attempt, detail)
  select relayforge.uuid7(p_now, 0), i.job_id, p_what, i.attempt, left(trim(p_actor) || ': ' || trim(p_reason), 2000)
    from unnest(p_job_ids, p_outcomes, p_attempts) i(job_id, outcome, attempt)
   where i.outcome = p_what;
end $$;
COMMENT ON FUNCTION relayforge.audit_jobs(p_actor text, p_action text, p_reason text, p_job_ids uuid[], p_outcomes text[], p_what text, p_attempts smallint[], p_now timestamp with time zone) IS 'Writes the audit row of a verb on jobs, and a job log row for each job that it changed.';
CREATE FUNCTION relayforge.audit_verify(p_seq bigint DEFAULT NULL::bigint, p_digest text DEFAULT NULL::text, OUT verified bigint, OUT unsealed bigint, OUT seq bigint, OUT digest text, OUT broken_seq bigint, OUT broken_id uuid, OUT broken_why text, OUT late bigint) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
#variable_conflict use_column
declare
  v_digest bytea := '';
  v_newest timestamptz := '-infinity';
  v_at timestamptz;
  v_seal record;
begin
  if num_nulls(p_seq, p_digest) = 1 then
    raise exception 'an earlier end of the chain is a place and a digest' using errcode = 'RF400';
  end if;
  verified := 0;
  late := 0;
  select count(*) into unsealed
    from admin_audit_log a
   where not exists (select from audit_seals s where s.audit_id = a.id);
  select s.seq, encode(s.digest, 'hex') into seq, digest from audit_seals s order by s.seq desc limit 1;
  for v_seal in
    select s.seq, s.audit_id, s.digest, a as audit, a.id is not null as is_there
      from audit_seals s
      left join admin_audit_log a on a.id = s.audit_id
     order by s.seq
  loop
    broken_why := case when v_seal.seq <> verified + 1 then format('seal %s is gone', verified + 1)
                       when not v_seal.is_there then 'its row is gone' end;
    if broken_why is null then
      v_digest := relayforge.audit_digest(v_digest, v_seal.audit);
      broken_why := case when v_digest <> v_seal.digest then 'the row or its seal was changed'
                         when v_seal.seq = p_seq and lower(p_digest) <> encode(v_digest, 'hex') then 'the chain was made anew' end;
    end if;
    if broken_why is not null then
      broken_seq := v_seal.seq;
      broken_id := v_seal.audit_id;
      return;
    end if;
    verified := v_seal.seq;
    v_at := relayforge.uuid7_time(v_seal.audit_id);
    if v_at < v_newest - interval '1 minute' then
      late := late + 1;
    end if;
    v_newest := greatest(v_newest, v_at);
  end loop;
  if p_seq > verified then
    broken_seq := verified + 1;
    broken_why := format('seals %s to %s are gone', verified + 1, p_seq);
  end if;
end $$;
COMMENT ON FUNCTION relayforge.audit_verify(p_seq bigint, p_digest text, OUT verified bigint, OUT unsealed bigint, OUT seq bigint, OUT digest text, OUT broken_seq bigint, OUT broken_id uuid, OUT broken_why text, OUT late bigint) IS 'Walks the hash chain over the audit log and names the first break; null if all fits. With an earlier end of the chain (from the API''s log), also that it was not made anew.';
CREATE FUNCTION relayforge.backoff(p_base interval, p_cap interval, p_try integer, p_jitter double precision DEFAULT 0.5) RETURNS interval
    LANGUAGE sql PARALLEL SAFE
    AS $$
  select least(p_cap, p_base * power(2, least(greatest(p_try, 1) - 1, 30))) * (1 - p_jitter + p_jitter * random())
$$;
COMMENT ON FUNCTION relayforge.backoff(p_base interval, p_cap interval, p_try integer, p_jitter double precision) IS 'Exponential back-off with jitter: base * 2^(try - 1), at most the cap, less up to the share jitter of it.';
CREATE FUNCTION relayforge.cancel_jobs(p_job_ids uuid[], p_reason text, p_actor text DEFAULT SESSION_USER, p_now timestamp with time zone DEFAULT clock_timestamp()) RETURNS TABLE(job_id uuid, outcome text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    SET enable_seqscan TO 'off'
    AS $$
#variable_conflict use_column
declare
  v_job_ids uuid[];
  v_outcomes text[];
  v_attempts smallint[];
begin
  perform 1 from open_jobs o where o.job_id = any (p_job_ids) order by o.job_id for no key update;
  with ended as (
    delete from open_jobs o
     where o.job_id = any (p_job_ids)
    -- An attempt that has not begun is no run.
    returning o.job_id, (o.attempt - case when o.run_id is null then 1 else 0 end)::smallint as attempts, o.started_at
  ), written as (
    update jobs j
       set outcome = 'cancelled', attempts = e.attempts, started_at = e.started_at, finished_at = p_now
      from ended e
     where j.id = e.job_id
    returning j.id, j.attempts
  )
  select array_agg(i.job_id order by i.job_id), array_agg(coalesce(w.attempts, 0::smallint) order by i.job_id),
         array_agg(case when w.id is not null then 'cancelled' when j.id is not null then 'final' else 'unknown' end order by i.job_id)
    into v_job_ids, v_attempts, v_outcomes
    from (select distinct u.job_id from unnest(p_job_ids) u(job_id)) i
    left join written w on w.id = i.job_id
    left join jobs j on j.id = i.job_id;
  perform relayforge.audit_jobs(p_actor, 'cancel_jobs', p_reason, v_job_ids, v_outcomes, 'cancelled', v_attempts, p_now);
  return query select i.job_id, i.outcome from unnest(v_job_ids, v_outcomes) i(job_id, outcome);
end $$;
COMMENT ON FUNCTION relayforge.cancel_jobs(p_job_ids uuid[], p_reason text, p_actor text, p_now timestamp with time zone) IS 'Ends open jobs as cancelled, 1 to 1,000 a call, and answers each: cancelled, final (it has its outcome) or unknown. A run that is under way is fenced, not stopped: what it reports is refused. Audited, with the reason.';
CREATE FUNCTION relayforge.check_clock(p_now timestamp with time zone) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'store', 'pg_temp'
    AS $$
begin
  if p_now is null
     or (p_now not between clock_timestamp() - interval '1 minute' and clock_timestamp() + interval '1 minute'
         and not pg_has_role(session_user, 'relayforge_owner', 'member')) then
    raise exception 'it is not %: only the owner may say so', coalesce(p_now::text, 'null') using errcode = 'RF400';
  end if;
end $$;
COMMENT ON FUNCTION relayforge.check_clock(p_now timestamp with time zone) IS 'Lets p_now be another time than the clock''s for the owner alone.';
CREATE FUNCTION relayforge.claim_outbox(p_target text, p_limit integer, p_from_at timestamp with time zone DEFAULT '-infinity'::timestamp with time zone, p_from_id uuid DEFAULT '00000000-0000-0000-0000-000000000000'::uuid, p_now timestamp with time zone DEFAULT clock_timestamp()) RETURNS TABLE(id uuid, job_id uuid, event_id uuid, attempt smallint, next_attempt_at timestamp with time zone, attempts integer, tenant_id uuid, tenant_slug text, source text, source_kind text, event_type text, provider_event_id text, correlation_id text, headers jsonb, body bytea, trace_context jsonb, cause text, error text, refused_since timestamp with time zone)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
declare
  -- 4 MiB of bodies, and the one that passes it: what a relay holds in memory for one batch. What is cut off stays locked
  -- until the transaction ends, and is claimed by a later one.
  c_most_bytes constant integer := 4194304;
  v_ids uuid[];
  v_job_ids uuid[];
  v_event_ids uuid[];
  v_attempts smallint[];
  v_dues timestamptz[];
  v_tries integer[];
  v_refused timestamptz[];
  v_causes text[];
  v_errors text[];
  v_events uuid[]; -- sorted
  v_first uuid;
  v_last uuid;
begin
  select array_agg(c.id), array_agg(c.job_id), array_agg(c.event_id), array_agg(c.attempt), array_agg(c.next_attempt_at),
         array_agg(c.attempts), array_agg(c.refused_since)
    into v_ids, v_job_ids, v_event_ids, v_attempts, v_dues, v_tries, v_refused
    from (
      select o.id, o.job_id, o.event_id, o.attempt, o.next_attempt_at, o.attempts, o.refused_since
        from outbox_messages o
       where o.target = p_target
         and (o.next_attempt_at, o.id) >= (p_from_at, p_from_id)
         and o.next_attempt_at <= p_now
       order by o.next_attempt_at, o.id
       limit p_limit
         for update skip locked
    ) c;
  -- A claim of none goes on, so that all is planned (warm_up.rs).
  if v_ids is null and p_limit > 0 then
    return;
  end if;
  if p_target = 'dlq' then
    select array_agg(d.cause order by i.ord), array_agg(j.last_error order by i.ord) into v_causes, v_errors
      from unnest(v_job_ids) with ordinality as i(job_id, ord)
      left join dead_jobs d on d.job_id = i.job_id
      left join jobs j on j.id = i.job_id;
  end if;
  -- The partitions between the first and the last event are all that is opened.
  -- Not in the statement above: beside an aggregate with an order of its own, PostgreSQL 16 gives all others that order, too.
  select array_agg(e.id order by e.id) into v_events from unnest(v_event_ids) e(id);
  v_first := v_events[1];
  v_last := v_events[cardinality(v_events)];
  return query
  select q.id, q.job_id, q.event_id, q.attempt, q.next_attempt_at, q.attempts,
         q.tenant_id, q.slug, q.source, q.kind, q.event_type, q.provider_event_id,
         q.correlation_id, q.headers, q.body, q.trace_context, q.cause, q.error, q.refused_since
    from (
      select v_ids[g.ord] as id, v_job_ids[g.ord] as job_id, v_event_ids[g.ord] as event_id, v_attempts[g.ord] as attempt,
             v_dues[g.ord] as next_attempt_at, v_tries[g.ord] as attempts, v_refused[g.ord] as refused_since,
             v_causes[g.ord] as cause, v_errors[g.ord] as error,
             i.tenant_id, t.slug, i.source, s.kind, i.event_type, i.provider_event_id,
             i.correlation_id, i.headers, i.body, i.trace_context, g.ord,
             sum(octet_length(i.body)) over (order by g.ord rows between unbounded preceding and 1 preceding) as bytes_before
        from generate_series(1, cardinality(v_ids)) as g(ord)
        -- Each by its key (lock_runs says why): between the first event and the last may be all of the inbox.
        left join lateral (
          select i.tenant_id, i.source, i.event_type, i.provider_event_id, i.correlation_id, i.headers, i.body, i.trace_context
            from webhook_inbox i
           where i.id = v_event_ids[g.ord] and i.id >= v_first and i.id <= v_last
          offset 0
        ) i on true
        left join lateral (select t.slug from tenants t where t.id = i.tenant_id offset 0) t on true
        left join lateral (select s.kind from sources s where s.name = i.source offset 0) s on true
    ) q
   where coalesce(q.bytes_before, 0) < c_most_bytes
   order by q.ord;
end $$;
COMMENT ON FUNCTION relayforge.claim_outbox(p_target text, p_limit integer, p_from_at timestamp with time zone, p_from_id uuid, p_now timestamp with time zone) IS 'Claims due messages of one target until the end of the transaction, with what is needed to make them; event columns are null where the event is gone, cause and error are those of a job that was given up.';
CREATE PROCEDURE relayforge.complete_jobs(IN p_job_ids uuid[], IN p_run_ids uuid[], INOUT p_completed uuid[] DEFAULT NULL::uuid[], IN p_now timestamp with time zone DEFAULT clock_timestamp(), INOUT p_busy uuid[] DEFAULT NULL::uuid[])
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
  v_attempts smallint[];
  v_started timestamptz[];
begin
  p_busy := relayforge.lock_runs(p_job_ids, p_run_ids);
  -- By id, so that a job's place is found by halves.
  with ended as (
    delete from open_jobs o
     where o.job_id = any (p_job_ids) and o.run_id = any (p_run_ids) and o.job_id <> all (p_busy)
    returning o.job_id, o.attempt, o.started_at
  )
  select coalesce(array_agg(e.job_id order by e.job_id), '{}'), array_agg(e.attempt order by e.job_id),
         array_agg(e.started_at order by e.job_id)
    into p_completed, v_attempts, v_started
    from ended e;
  -- The partitions of jobs between the first and the last are all that is looked into.
  update jobs j
     set outcome = 'succeeded', attempts = v_attempts[width_bucket(j.id, p_completed)],
         started_at = v_started[width_bucket(j.id, p_completed)], finished_at = p_now
   where j.id = any (p_completed) and j.id >= p_completed[1] and j.id <= p_completed[cardinality(p_completed)];
end $$;
COMMENT ON PROCEDURE relayforge.complete_jobs(IN p_job_ids uuid[], IN p_run_ids uuid[], INOUT p_completed uuid[], IN p_now timestamp with time zone, INOUT p_busy uuid[]) IS 'Ends runs that succeeded; returns the jobs whose current run it was, and those that somebody else holds: ask again.';
CREATE FUNCTION relayforge.configure_upkeep(p_partition_interval text, p_inbox_days integer, p_jobs_days integer, p_dedup_window interval, p_hash_window interval, p_default_daily_quota bigint) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
declare
  v_old upkeep%rowtype;
  v_new upkeep%rowtype;
begin
  select u.* into v_old from upkeep u for no key update;
  v_new := v_old;
  v_new.partition_interval := coalesce(p_partition_interval, v_old.partition_interval);
  v_new.inbox_days := coalesce(p_inbox_days, v_old.inbox_days);
  v_new.jobs_days := coalesce(p_jobs_days, v_old.jobs_days);
  v_new.dedup_window := coalesce(p_dedup_window, v_old.dedup_window);
  v_new.hash_window := coalesce(p_hash_window, v_old.hash_window);
  v_new.default_daily_quota := coalesce(p_default_daily_quota, v_old.default_daily_quota);
  if v_new is not distinct from v_old then
    return false;
  end if;
  if v_new.inbox_days < v_old.inbox_days or v_new.jobs_days < v_old.jobs_days
     or v_new.dedup_window < v_old.dedup_window or v_new.hash_window < v_old.hash_window then
    v_new.cautious_until := clock_timestamp() + interval '1 hour';
  end if;
  update upkeep u
     set partition_interval = v_new.partition_interval, inbox_days = v_new.inbox_days, jobs_days = v_new.jobs_days,
         dedup_window = v_new.dedup_window, hash_window = v_new.hash_window,
         default_daily_quota = v_new.default_daily_quota, cautious_until = v_new.cautious_until;
  perform relayforge.write_audit(
    session_user, 'configure_upkeep', 'upkeep', 'as configured',
    (select jsonb_object_agg(n.key, jsonb_build_object('from', o.value, 'to', n.value))
       from jsonb_each(to_jsonb(v_new)) n
       join jsonb_each(to_jsonb(v_old)) o on o.key = n.key
      where n.value <> o.value and n.key <> 'cautious_until'));
  return true;
end $$;
COMMENT ON FUNCTION relayforge.configure_upkeep(p_partition_interval text, p_inbox_days integer, p_jobs_days integer, p_dedup_window interval, p_hash_window interval, p_default_daily_quota bigint) IS 'Notes how long things are kept: what RETENTION__…, PARTITION__… and DEDUP__… of the API say. Null leaves a value as it is. Returns whether anything differed; audited then, and nothing is dropped for an hour if something is kept for a shorter time. An API that runs notes its own again within a minute.';
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
     where o.job_id = any (p_job_ids)
    -- An attempt that has not begun is no run.
    returning o.job_id, (o.attempt - case when o.run_id is null then 1 else 0 end)::smallint as attempts, o.started_at,
              p_causes[array_position(p_job_ids, o.job_id)] as cause,
              left(p_errors[array_position(p_job_ids, o.job_id)], 2000) as error
  ), written as (
    update jobs j
       set outcome = 'dead_lettered', attempts = e.attempts, started_at = e.started_at, finished_at = p_now,
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
CREATE FUNCTION relayforge.dedup_digest(p_tenant_id uuid, p_source text, p_dedup_key text) RETURNS bytea
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
  select substring(sha256(uuid_send(p_tenant_id) || convert_to(p_source || ':' || p_dedup_key, 'UTF8')) for 16)
$$;
COMMENT ON FUNCTION relayforge.dedup_digest(p_tenant_id uuid, p_source text, p_dedup_key text) IS 'The key of the dedup ledger: first 16 bytes of SHA-256 over tenant, source and dedup key.';
CREATE FUNCTION relayforge.dedup_key(p_provider_event_id text, p_body_sha256 bytea) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
  select case when p_provider_event_id is not null then 'provider:' || p_provider_event_id
              else 'hash:' || encode(p_body_sha256, 'hex') end
$$;
COMMENT ON FUNCTION relayforge.dedup_key(p_provider_event_id text, p_body_sha256 bytea) IS 'What makes two deliveries one event: provider:<the provider''s id>, or else hash:<SHA-256 of the bytes>.';
CREATE FUNCTION relayforge.drop_old_partition(p_inbox_days integer, p_jobs_days integer, p_parents text[], p_now timestamp with time zone) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'store', 'pg_temp'
    SET lock_timeout TO '100ms'
    AS $$
declare
  v_partition text;
begin
  select p.partition into v_partition
    from relayforge.list_partitions() p
   where p.to_at <= p_now - make_interval(days => case p.parent when 'webhook_inbox' then p_inbox_days else p_jobs_days end)
     and not exists (select 1 from open_jobs o where o.job_id < relayforge.uuid7_floor(p.to_at))
     and p.parent = any (p_parents)
   order by p.to_at, p.parent
   limit 1;
  if v_partition is not null then
    execute format('drop table store.%I', v_partition);
  end if;
  return v_partition;
end $$;
COMMENT ON FUNCTION relayforge.drop_old_partition(p_inbox_days integer, p_jobs_days integer, p_parents text[], p_now timestamp with time zone) IS 'Drops the oldest partition that is past its retention and returns its name; null if nothing is due.';
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
COMMENT ON FUNCTION relayforge.ensure_partitions(p_interval text, p_days_ahead integer, p_now timestamp with time zone) IS 'Makes missing partitions, p_interval (day or week) each, p_days_ahead days ahead, those in a hole included; returns how many. Safe to call at any time.';
CREATE FUNCTION relayforge.erase_event(p_event_id uuid, p_reason text, p_actor text DEFAULT SESSION_USER, p_now timestamp with time zone DEFAULT clock_timestamp()) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
declare
  v_event_id uuid;
  v_erased bigint;
begin
  -- Whoever was answered as a duplicate may have the id of that delivery.
  v_event_id := coalesce((select i.event_id from webhook_inbox i where i.id = p_event_id), p_event_id);
  if not exists (select 1 from webhook_inbox i where i.id = v_event_id or (i.event_id = v_event_id and i.event_id <> i.id))
     and not exists (select 1 from jobs j where j.event_id = v_event_id) then
    raise exception 'event % does not exist', coalesce(p_event_id::text, 'null') using errcode = 'RF404';
  end if;
  v_erased := relayforge.erase_events(array[v_event_id], p_now);
  perform relayforge.write_audit(
    p_actor, 'erase_event', 'event/' || v_event_id, p_reason, jsonb_build_object('deliveries', v_erased));
  return v_erased;
end $$;
COMMENT ON FUNCTION relayforge.erase_event(p_event_id uuid, p_reason text, p_actor text, p_now timestamp with time zone) IS 'Erases body, headers, trace context and errors of one event and cancels its open jobs; returns how many deliveries were erased, 0 if it was done before and none has come since. Copies outside of this database are not reached. Audited, with the reason.';
CREATE FUNCTION relayforge.erase_events(p_event_ids uuid[], p_now timestamp with time zone) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'store', 'pg_temp'
    SET enable_seqscan TO 'off'
    AS $$
declare
  v_job_ids uuid[];
  v_erased bigint;
begin
  select array_agg(j.id order by j.id) into v_job_ids from jobs j where j.event_id = any (p_event_ids);
  perform 1
     from dedup_ledger l
    where l.digest in (
      select relayforge.dedup_digest(j.tenant_id, j.source, j.dedup_key)
        from jobs j
       where j.id = any (v_job_ids) and j.dedup_key is not null)
    order by l.digest
      for update;
  perform 1 from open_jobs o where o.job_id = any (v_job_ids) order by o.job_id for no key update;
  -- Whoever reprocesses one of them is either done, and its row in open_jobs is there, or will find the event erased.
  perform 1 from jobs j where j.id = any (v_job_ids) order by j.id for no key update;
  with ended as (
    delete from open_jobs o
     where o.job_id = any (v_job_ids)
    returning o.job_id, (o.attempt - case when o.run_id is null then 1 else 0 end)::smallint as attempts, o.started_at
  )
  update jobs j
     set outcome = 'cancelled', attempts = e.attempts, started_at = e.started_at, finished_at = p_now
    from ended e
   where j.id = e.job_id;
  update jobs j set last_error = null where j.id = any (v_job_ids) and j.last_error is not null;
  update job_log l set detail = 'erased' where l.job_id = any (v_job_ids) and l.what in ('failed', 'dead') and l.detail <> 'erased';
  perform 1
     from webhook_inbox i
    where i.id = any (p_event_ids) or (i.event_id = any (p_event_ids) and i.event_id <> i.id)
    order by i.id
      for no key update;
  update webhook_inbox i
     set body = null, headers = '{}', trace_context = null, erased_at = p_now
   where i.erased_at is null
     and (i.id = any (p_event_ids) or (i.event_id = any (p_event_ids) and i.event_id <> i.id));
  get diagnostics v_erased = row_count;
  return v_erased;
end $$;
COMMENT ON FUNCTION relayforge.erase_events(p_event_ids uuid[], p_now timestamp with time zone) IS 'Erases what events carried and cancels their open jobs; returns how many deliveries were erased.';
CREATE PROCEDURE relayforge.erase_tenant(IN p_tenant_id uuid, IN p_reason text, INOUT p_erased bigint DEFAULT NULL::bigint, IN p_actor text DEFAULT SESSION_USER, IN p_now timestamp with time zone DEFAULT clock_timestamp())
    LANGUAGE plpgsql
    AS $$
declare
  c_deadlocks constant integer := 10;
  v_step text;
  v_last uuid;
  v_next uuid;
  v_erased bigint;
  v_deadlocks integer := 0;
begin
  p_erased := 0;
  perform relayforge.erase_tenant_step(p_tenant_id, 'begin', null, p_reason, p_actor, p_now);
  commit;
  -- Ingest that has read the tenant as active is over by then: its role's statement_timeout is 1.5 s.
  perform pg_sleep(2);
  perform relayforge.erase_tenant_step(p_tenant_id, 'wait', null, p_reason, p_actor, p_now);
  commit;
  foreach v_step in array array['events', 'deliveries'] loop
    v_last := null;
    loop
      begin
        select s.last_job_id, s.erased into v_next, v_erased
          from relayforge.erase_tenant_step(p_tenant_id, v_step, v_last, p_reason, p_actor, p_now) s;
        v_deadlocks := 0;
      exception when deadlock_detected then
        -- With the end of a job that was reprocessed meanwhile. It is final now.
        v_deadlocks := v_deadlocks + 1;
        if v_deadlocks > c_deadlocks then
          raise;
        end if;
      end;
      commit;
      continue when v_deadlocks > 0;
      v_last := v_next;
      exit when v_last is null;
      p_erased := p_erased + v_erased;
    end loop;
  end loop;
  perform relayforge.erase_tenant_step(p_tenant_id, 'end', null, p_reason, p_actor, p_now);
end $$;
COMMENT ON PROCEDURE relayforge.erase_tenant(IN p_tenant_id uuid, IN p_reason text, INOUT p_erased bigint, IN p_actor text, IN p_now timestamp with time zone) IS 'Suspends a tenant and erases its events, secrets, samples and name, in short transactions: not inside one. Killed half-way, call it again. p_erased comes back with the number of deliveries. Audited, with the reason.';
CREATE FUNCTION relayforge.erase_tenant_step(p_tenant_id uuid, p_step text, p_after uuid, p_reason text, p_actor text DEFAULT SESSION_USER, p_now timestamp with time zone DEFAULT clock_timestamp()) RETURNS TABLE(last_job_id uuid, erased bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
#variable_conflict use_column
declare
  c_jobs constant integer := 500;
  c_deliveries constant integer := 5000;
  v_status text;
  v_last uuid;
  v_event_ids uuid[];
begin
  select t.status into v_status from tenants t where t.id = p_tenant_id for no key update;
  if not found then
    raise exception 'tenant % does not exist', p_tenant_id using errcode = 'RF404';
  end if;
  if p_step <> 'begin' and v_status <> 'suspended' then
    raise exception 'tenant % is not suspended', p_tenant_id using errcode = 'RF409';
  end if;
  -- Which was audited, with a reason.
  if p_step <> 'begin'
     and (select a.detail ->> 'step'
            from admin_audit_log a
           where a.target = 'tenant/' || p_tenant_id and a.action = 'erase_tenant'
           order by a.id desc
           limit 1) is distinct from 'begun' then
    raise exception 'erasing tenant % has not begun: call erase_tenant', p_tenant_id using errcode = 'RF409';
  end if;
  case p_step
    when 'begin' then
      update tenants t set status = 'suspended', updated_at = p_now where t.id = p_tenant_id;
      perform relayforge.write_audit(p_actor, 'erase_tenant', 'tenant/' || p_tenant_id, p_reason, '{"step": "begun"}');
      return query select null::uuid, 0::bigint;
    when 'wait' then
      -- Whoever takes something in for the tenant holds one of these until its commit.
      perform 1
         from tenant_daily_quota_usage u
        where u.tenant_id = p_tenant_id and u.day >= (p_now at time zone 'UTC')::date - 1
        order by u.day
          for update;
      return query select null::uuid, 0::bigint;
    when 'deliveries' then
      return query
      with looked_at as materialized (
        select i.id, i.tenant_id, i.erased_at
          from webhook_inbox i
         where p_after is null or i.id > p_after
         order by i.id
         limit c_deliveries
      ), gone as (
        update webhook_inbox i
           set body = null, headers = '{}', trace_context = null, erased_at = p_now
          from looked_at l
         where i.id = l.id and l.tenant_id = p_tenant_id and l.erased_at is null
        returning 1
      )
      select (select (array_agg(l.id order by l.id desc))[1] from looked_at l), (select count(*) from gone);
    when 'events' then
      select (array_agg(q.id order by q.id desc))[1], array_agg(distinct q.event_id) into v_last, v_event_ids
        from (
          select j.id, j.event_id
            from jobs j
           where j.tenant_id = p_tenant_id and (p_after is null or j.id > p_after)
           order by j.id
           limit c_jobs
        ) q;
      return query select v_last, case when v_last is null then 0 else relayforge.erase_events(v_event_ids, p_now) end;
    when 'end' then
      delete from secret_usage u
       using tenant_provider_secrets s
       where s.tenant_id = p_tenant_id and u.secret_id = s.id;
      delete from tenant_provider_secrets s where s.tenant_id = p_tenant_id;
      update webhook_rejections r
         set sample = null, sample_detail = null
       where r.tenant_id = p_tenant_id and (r.sample is not null or r.sample_detail is not null);
      update tenants t set name = '(erased)', updated_at = p_now where t.id = p_tenant_id;
      perform relayforge.write_audit(p_actor, 'erase_tenant', 'tenant/' || p_tenant_id, p_reason, '{"step": "ended"}');
      return query select null::uuid, 0::bigint;
    else
      raise exception 'erase_tenant has no step %', p_step using errcode = 'RF400';
  end case;
end $$;
COMMENT ON FUNCTION relayforge.erase_tenant_step(p_tenant_id uuid, p_step text, p_after uuid, p_reason text, p_actor text, p_now timestamp with time zone) IS 'One step of erase_tenant in the caller''s transaction; call relayforge.erase_tenant instead.';
CREATE FUNCTION relayforge.event_of(p_tenant text, p_source text, p_provider_event_id text) RETURNS uuid
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
begin
  return (
    select l.event_id
      from tenants t
      join dedup_ledger l on l.digest = relayforge.dedup_digest(t.id, p_source, 'provider:' || p_provider_event_id)
     where t.slug = p_tenant);
end $$;
COMMENT ON FUNCTION relayforge.event_of(p_tenant text, p_source text, p_provider_event_id text) IS 'The event that a tenant''s slug, a source and the provider''s id name: the newest, where the id came again after the dedup window. Null if there is none, or if its dedup key was a hash.';
CREATE FUNCTION relayforge.expire_jobs(p_inbox_days integer, p_limit integer, p_now timestamp with time zone) RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO 'store', 'pg_temp'
    SET enable_seqscan TO 'off'
    AS $$
declare
  v_kept_from constant timestamptz := p_now - make_interval(days => p_inbox_days);
  v_before uuid;
  v_overdue uuid;
  v_job_ids uuid[];
begin
  select relayforge.uuid7_floor(max(p.to_at) filter (where p.to_at <= v_kept_from + interval '1 day')),
         relayforge.uuid7_floor(max(p.to_at) filter (where p.to_at <= v_kept_from))
    into v_before, v_overdue
    from relayforge.list_partitions() p
   where p.parent = 'webhook_inbox';
  select array_agg(q.job_id) into v_job_ids
    from (
      select o.job_id
        from open_jobs o
       where o.job_id < v_before
         and (o.state <> 'processing' or o.lease_until < p_now or o.job_id < v_overdue)
       order by o.job_id
       limit p_limit
         for no key update skip locked
    ) q;
  if v_job_ids is null then
    return 0;
  end if;
  perform relayforge.dead_letter_jobs(
    v_job_ids,
    array_fill('expired'::text, array[cardinality(v_job_ids)]),
    array_fill(format('deliveries are kept for %s days', p_inbox_days), array[cardinality(v_job_ids)]),
    p_now);
  return cardinality(v_job_ids);
end $$;
COMMENT ON FUNCTION relayforge.expire_jobs(p_inbox_days integer, p_limit integer, p_now timestamp with time zone) IS 'Gives up jobs that are still open a day before their event may be dropped; returns how many.';
CREATE PROCEDURE relayforge.fail_jobs(IN p_job_ids uuid[], IN p_run_ids uuid[], IN p_errors text[], IN p_retryable boolean[], IN p_retry_after_seconds double precision[], IN p_max_attempts integer, IN p_backoff_base interval, IN p_backoff_cap interval, INOUT p_failed uuid[] DEFAULT NULL::uuid[], INOUT p_outcomes text[] DEFAULT NULL::text[], INOUT p_next_due timestamp with time zone DEFAULT NULL::timestamp with time zone, IN p_now timestamp with time zone DEFAULT clock_timestamp(), INOUT p_busy uuid[] DEFAULT NULL::uuid[])
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
  -- The number of an attempt is a smallint: a job that is rescued for ever ends here.
  c_last_attempt constant smallint := 32000;
  v_errors text[];
  v_attempts smallint[];
  v_dues timestamptz[];
  v_causes text[];
begin
  p_busy := relayforge.lock_runs(p_job_ids, p_run_ids);
  select coalesce(array_agg(q.job_id), '{}'), array_agg(q.error), array_agg(q.attempt), array_agg(q.cause),
         coalesce(array_agg(case when q.cause is null then 'retrying' else 'dead_lettered' end), '{}'),
         array_agg(case when q.cause is null then p_now + greatest(
           make_interval(secs => q.retry_after_seconds),
           relayforge.backoff(q.backoff_base, q.backoff_cap, q.attempt - q.attempt_base, q.jitter)) end)
    into p_failed, v_errors, v_attempts, v_causes, p_outcomes, v_dues
    from (
      -- A run that stands twice in the arrays has failed once: the first counts.
      select distinct on (o.job_id)
             o.job_id, o.attempt, o.attempt_base, left(i.error, 2000) as error, i.retry_after_seconds,
             p.backoff_base, p.backoff_cap, p.jitter,
             case
               when not i.retryable then 'permanent'
               when o.attempt - o.attempt_base >= p.max_attempts or o.attempt >= c_last_attempt then 'exhausted'
             end as cause
        from unnest(p_job_ids, p_run_ids, p_errors, p_retryable, p_retry_after_seconds)
               with ordinality as i(job_id, run_id, error, retryable, retry_after_seconds, ord)
       cross join lateral (
         select o.job_id, o.tenant_id, o.attempt, o.attempt_base
           from open_jobs o
          where o.job_id = i.job_id and o.run_id = i.run_id and o.job_id <> all (p_busy)
         offset 0
       ) o
        join jobs j on j.id = o.job_id
       cross join lateral relayforge.retry_policy_of(o.tenant_id, j.source) r
       cross join lateral (
         select coalesce(r.max_attempts, p_max_attempts) as max_attempts,
                coalesce(r.backoff_base, p_backoff_base) as backoff_base,
                coalesce(r.backoff_cap, p_backoff_cap) as backoff_cap,
                coalesce(r.jitter, 0.5) as jitter
       ) p
       order by o.job_id, i.ord
    ) q;
  insert into job_log (id, job_id, what, attempt, detail)
  select relayforge.uuid7(p_now, 0), i.job_id, 'failed', i.attempt, i.error
    from unnest(p_failed, v_attempts, v_errors) i(job_id, attempt, error);
  update open_jobs o
     set state = 'retrying', attempt = o.attempt + 1, starts = 0, run_id = null, lease_until = null,
         due_at = v_dues[width_bucket(o.job_id, p_failed)]
   where o.job_id = any (p_failed) and v_dues[width_bucket(o.job_id, p_failed)] is not null;
  perform relayforge.dead_letter_jobs(array_agg(i.job_id), array_agg(i.cause), array_agg(i.error), p_now)
     from unnest(p_failed, v_causes, v_errors) i(job_id, cause, error)
    where i.cause is not null
   having count(*) > 0;
  insert into outbox_messages (id, target, job_id, event_id, attempt, next_attempt_at)
  select relayforge.uuid7(p_now, 0), 'retries', i.job_id, j.event_id, i.attempt + 1, i.due_at
    from unnest(p_failed, v_attempts, v_dues) i(job_id, attempt, due_at)
    join jobs j on j.id = i.job_id
   where i.due_at is not null;
  select min(d.at) into p_next_due from unnest(v_dues) d(at);
end $$;
COMMENT ON PROCEDURE relayforge.fail_jobs(IN p_job_ids uuid[], IN p_run_ids uuid[], IN p_errors text[], IN p_retryable boolean[], IN p_retry_after_seconds double precision[], IN p_max_attempts integer, IN p_backoff_base interval, IN p_backoff_cap interval, INOUT p_failed uuid[], INOUT p_outcomes text[], INOUT p_next_due timestamp with time zone, IN p_now timestamp with time zone, INOUT p_busy uuid[]) IS 'Ends runs that failed: each job is retried after a back-off, or dead-lettered, as the retry policies say, or else the arguments.';
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
CREATE PROCEDURE relayforge.hand_back_runs(IN p_job_ids uuid[], IN p_run_ids uuid[], INOUT p_handed_back uuid[] DEFAULT NULL::uuid[], IN p_now timestamp with time zone DEFAULT clock_timestamp())
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    SET enable_seqscan TO 'off'
    AS $$
declare
  c_last_attempt constant smallint := 32000;
  v_busy uuid[];
begin
  v_busy := relayforge.lock_runs(p_job_ids, p_run_ids);
  select coalesce(array_agg(o.job_id), '{}') into p_handed_back
    from open_jobs o
   where o.job_id = any (p_job_ids) and o.run_id = any (p_run_ids) and o.job_id <> all (v_busy) and o.attempt < c_last_attempt;
  perform relayforge.requeue_runs(p_handed_back, 'run %s was handed back: its consumer was told to end', true, p_now);
end $$;
COMMENT ON PROCEDURE relayforge.hand_back_runs(IN p_job_ids uuid[], IN p_run_ids uuid[], INOUT p_handed_back uuid[], IN p_now timestamp with time zone) IS 'Hands back runs that a consumer will not finish: their jobs are in the outbox again at once. Returns the jobs whose current run it was.';
CREATE FUNCTION relayforge.hold_jobs(p_job_ids uuid[], p_reason text, p_actor text DEFAULT SESSION_USER, p_now timestamp with time zone DEFAULT clock_timestamp()) RETURNS TABLE(job_id uuid, outcome text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    SET enable_seqscan TO 'off'
    AS $$
#variable_conflict use_column
declare
  v_job_ids uuid[];
  v_outcomes text[];
  v_attempts smallint[];
begin
  perform 1 from open_jobs o where o.job_id = any (p_job_ids) order by o.job_id for no key update;
  update open_jobs o
     set state = 'held', due_at = 'infinity'
   where o.job_id = any (p_job_ids) and o.state <> 'processing';
  select array_agg(i.job_id order by i.job_id), array_agg(coalesce(o.attempt, 0::smallint) order by i.job_id),
         array_agg(case
                     when o.state is not null then o.state
                     when j.id is not null then 'final'
                     else 'unknown'
                   end order by i.job_id)
    into v_job_ids, v_attempts, v_outcomes
    from (select distinct u.job_id from unnest(p_job_ids) u(job_id)) i
    left join lateral (select o.job_id, o.state, o.attempt from open_jobs o where o.job_id = i.job_id offset 0) o on true
    left join jobs j on j.id = i.job_id;
  perform relayforge.audit_jobs(p_actor, 'hold_jobs', p_reason, v_job_ids, v_outcomes, 'held', v_attempts, p_now);
  return query select i.job_id, i.outcome from unnest(v_job_ids, v_outcomes) i(job_id, outcome);
end $$;
COMMENT ON FUNCTION relayforge.hold_jobs(p_job_ids uuid[], p_reason text, p_actor text, p_now timestamp with time zone) IS 'Keeps jobs from being started until release_jobs, 1 to 1,000 a call, and answers each: held, processing (a run is under way: not held), final (it has its outcome) or unknown. Audited, with the reason.';
CREATE FUNCTION relayforge.ingest_webhooks(p_tenant_ids uuid[], p_sources text[], p_provider_event_ids text[], p_event_types text[], p_bodies bytea[], p_headers jsonb[], p_signature_timestamps timestamp with time zone[], p_secret_ids uuid[], p_correlation_ids text[], p_trace_contexts jsonb[], p_default_daily_quota bigint, p_dedup_window interval, p_hash_window interval, p_now timestamp with time zone DEFAULT clock_timestamp(), p_body_sha256s bytea[] DEFAULT NULL::bytea[], p_digests bytea[] DEFAULT NULL::bytea[], p_expect_new boolean DEFAULT false) RETURNS TABLE(outcome text, inbox_id uuid, event_id uuid, job_id uuid, retry_after_seconds integer, guessed_wrong boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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
COMMENT ON FUNCTION relayforge.ingest_webhooks(p_tenant_ids uuid[], p_sources text[], p_provider_event_ids text[], p_event_types text[], p_bodies bytea[], p_headers jsonb[], p_signature_timestamps timestamp with time zone[], p_secret_ids uuid[], p_correlation_ids text[], p_trace_contexts jsonb[], p_default_daily_quota bigint, p_dedup_window interval, p_hash_window interval, p_now timestamp with time zone, p_body_sha256s bytea[], p_digests bytea[], p_expect_new boolean) IS 'Takes in N verified webhooks and answers each, in one transaction: replay, dedup, quota, inbox, job, outbox.';
CREATE FUNCTION relayforge.inspect_queue() RETURNS TABLE(outbox_dead_rows bigint, outbox_vacuumed_at timestamp with time zone, open_jobs_dead_rows bigint, open_jobs_vacuumed_at timestamp with time zone, snapshot_age_xids integer, snapshot_since timestamp with time zone, snapshot_holder text, notify_queue_usage double precision)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $_$
  with holders as (
    select age(a.backend_xmin) as xids, a.xact_start as since,
           format(case a.backend_type when 'walsender' then 'standby %2$s, pid %1$s' else 'pid %s, %s, %s, %s' end,
                  a.pid, coalesce(nullif(a.application_name, ''), 'no name'),
                  coalesce(a.usename, '-'), coalesce(a.state, a.backend_type)) as holder
      from pg_stat_activity a
     where a.backend_xmin is not null and a.pid <> pg_backend_pid()
       -- A standby with hot_standby_feedback belongs to no database and holds for all.
       and (a.datname = current_database() or a.datname is null)
     union all
    select age(p.transaction), p.prepared, 'prepared transaction ' || p.gid
      from pg_prepared_xacts p
     where p.database = current_database()
     union all
    select greatest(age(s.xmin), age(s.catalog_xmin)), null, 'replication slot ' || s.slot_name
      from pg_replication_slots s
     where s.xmin is not null or s.catalog_xmin is not null
  ), oldest as (
    select h.* from holders h order by h.xids desc, h.since limit 1
  )
  select o.n_dead_tup, greatest(o.last_vacuum, o.last_autovacuum), j.n_dead_tup, greatest(j.last_vacuum, j.last_autovacuum),
         s.xids, s.since, s.holder, pg_notification_queue_usage()
    from pg_stat_user_tables o
    join pg_stat_user_tables j on j.relid = 'open_jobs'::regclass
    left join oldest s on true
   where o.relid = 'outbox_messages'::regclass
$_$;
COMMENT ON FUNCTION relayforge.inspect_queue() IS 'Dead rows of outbox and open_jobs, the oldest snapshot and who holds it, use of the NOTIFY queue. No query texts.';
CREATE FUNCTION relayforge.list_partitions() RETURNS TABLE(parent text, partition text, from_at timestamp with time zone, to_at timestamp with time zone, rows bigint, bytes bigint)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
  select p.relname::text, c.relname::text,
         relayforge.uuid7_time(b.bounds[1]::uuid), relayforge.uuid7_time(b.bounds[2]::uuid),
         greatest(c.reltuples, 0)::bigint, pg_total_relation_size(c.oid)
    from pg_inherits i
    join pg_class c on c.oid = i.inhrelid
    join pg_class p on p.oid = i.inhparent
   cross join lateral regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''([^'']+)''\) TO \(''([^'']+)''\)') b(bounds)
   where p.relnamespace = 'store'::regnamespace
     and p.relname in ('webhook_inbox', 'jobs', 'job_log')
     and b.bounds is not null
$$;
COMMENT ON FUNCTION relayforge.list_partitions() IS 'The partitions of webhook_inbox, jobs and job_log: the times between which their ids lie, rows (estimated) and bytes with indexes.';
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
CREATE FUNCTION relayforge.lock_key(p_name text) RETURNS bigint
    LANGUAGE sql STABLE
    SET search_path TO 'store', 'pg_temp'
    AS $$ select hashtextextended('relayforge.' || p_name, u.lock_seed) from upkeep u $$;
COMMENT ON FUNCTION relayforge.lock_key(p_name text) IS 'The key of an advisory lock of ours, which no other login knows.';
CREATE FUNCTION relayforge.lock_runs(p_job_ids uuid[], p_run_ids uuid[] DEFAULT NULL::uuid[]) RETURNS uuid[]
    LANGUAGE plpgsql
    SET search_path TO 'store', 'pg_temp'
    AS $$
declare
  v_locked uuid[];
begin
  select coalesce(array_agg(q.job_id), '{}') into v_locked
    from (
      select o.job_id
        from open_jobs o
       where o.job_id = any (p_job_ids) and (p_run_ids is null or o.run_id = any (p_run_ids))
       order by o.job_id
         for no key update skip locked
    ) q;
  -- Nearly always all.
  if cardinality(v_locked) = cardinality(p_job_ids) then
    return '{}';
  end if;
  return (
    select coalesce(array_agg(o.job_id), '{}')
      from open_jobs o
     where o.job_id = any (p_job_ids) and (p_run_ids is null or o.run_id = any (p_run_ids))
       and o.job_id <> all (v_locked));
end $$;
COMMENT ON FUNCTION relayforge.lock_runs(p_job_ids uuid[], p_run_ids uuid[]) IS 'Locks open jobs by id and returns those that somebody else holds, which are not waited for.';
CREATE PROCEDURE relayforge.maintain(IN p_not_within interval DEFAULT '00:00:00'::interval, INOUT p_done text[] DEFAULT NULL::text[], INOUT p_failed text[] DEFAULT NULL::text[], IN p_now timestamp with time zone DEFAULT clock_timestamp())
    LANGUAGE plpgsql
    AS $$
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
COMMENT ON PROCEDURE relayforge.maintain(IN p_not_within interval, INOUT p_done text[], INOUT p_failed text[], IN p_now timestamp with time zone) IS 'Upkeep: partitions, expiry, retention, purges, in short transactions: not inside one. Safe to call at any time from psql or pg_cron, beside api and relay, which see to it every minute. p_done and p_failed come back with what was done and what was not.';
CREATE FUNCTION relayforge.outbox_next_due(p_from_at timestamp with time zone DEFAULT '-infinity'::timestamp with time zone) RETURNS timestamp with time zone
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
  return (
    select min(n.at)
      from unnest(array['jobs', 'retries', 'events', 'dlq']) t(target)
     cross join lateral (
       select o.next_attempt_at as at
         from outbox_messages o
        where o.target = t.target and o.next_attempt_at >= p_from_at
        order by o.next_attempt_at
        limit 1
     ) n);
end $$;
COMMENT ON FUNCTION relayforge.outbox_next_due(p_from_at timestamp with time zone) IS 'When the next message falls due; null when none waits.';
CREATE FUNCTION relayforge.partition_ends(p_now timestamp with time zone DEFAULT clock_timestamp()) RETURNS TABLE(parent text, until timestamp with time zone)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
  with recursive covered as (
    select t.parent, p_now as until
      from unnest(array['webhook_inbox', 'jobs', 'job_log']) t(parent)
     union
    select c.parent, p.to_at
      from covered c
      join relayforge.list_partitions() p on p.parent = c.parent and p.from_at <= c.until and p.to_at > c.until
  )
  select c.parent, max(c.until) from covered c group by c.parent
$$;
COMMENT ON FUNCTION relayforge.partition_ends(p_now timestamp with time zone) IS 'From when on each of webhook_inbox, jobs and job_log can store nothing, unless further partitions are made.';
CREATE FUNCTION relayforge.partitions_end(p_now timestamp with time zone DEFAULT clock_timestamp()) RETURNS timestamp with time zone
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$ select min(e.until) from relayforge.partition_ends(p_now) e $$;
COMMENT ON FUNCTION relayforge.partitions_end(p_now timestamp with time zone) IS 'From when on nothing can be stored, unless further partitions are made: 14 days ahead in a healthy system, now if there is none for now.';
CREATE FUNCTION relayforge.policy_tenant(p_tenant text, p_source text) RETURNS uuid
    LANGUAGE plpgsql STABLE
    SET search_path TO 'store', 'pg_temp'
    AS $$
declare
  v_tenant_id uuid;
begin
  if p_tenant is not null then
    select t.id into v_tenant_id from tenants t where t.slug = p_tenant or t.id::text = lower(p_tenant);
    if v_tenant_id is null then
      raise exception 'tenant % does not exist', p_tenant using errcode = 'RF404';
    end if;
  end if;
  if p_source is not null and not exists (select 1 from sources s where s.name = p_source) then
    raise exception 'source % does not exist', p_source using errcode = 'RF404';
  end if;
  return v_tenant_id;
end $$;
COMMENT ON FUNCTION relayforge.policy_tenant(p_tenant text, p_source text) IS 'The id of the tenant that a policy names; null for none named.';
CREATE FUNCTION relayforge.purge_pages(p_relation text, p_pages integer, p_floor uuid, p_hash_floor uuid, p_now timestamp with time zone) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'store', 'pg_temp'
    AS $_$
declare
  v_end constant bigint := pg_relation_size(format('store.%I', p_relation)::regclass) / current_setting('block_size')::bigint;
  v_page bigint;
begin
  insert into purge_positions (relation, page) values (p_relation, 0) on conflict do nothing;
  select p.page into v_page from purge_positions p where p.relation = p_relation for no key update;
  execute format(
    'delete from store.%1$I where ctid = any (array(
       select ctid from store.%1$I
        where ctid >= ''(%2$s,0)''::tid and ctid < ''(%3$s,0)''::tid and %4$s
          for update skip locked))',
    p_relation, v_page, v_page + p_pages,
    case when p_relation like 'dedup_ledger%' then 'event_id < case when by_hash then $2 else $1 end' else 'event_id < $1' end)
    using p_floor, p_hash_floor;
  if v_page + p_pages < v_end then
    update purge_positions p set page = v_page + p_pages where p.relation = p_relation;
    return false;
  end if;
  update purge_positions p set page = 0, pass_ended_at = p_now where p.relation = p_relation;
  return true;
end $_$;
COMMENT ON FUNCTION relayforge.purge_pages(p_relation text, p_pages integer, p_floor uuid, p_hash_floor uuid, p_now timestamp with time zone) IS 'Deletes expired rows from the next pages of a table without an index on time; returns whether that ended the pass.';
CREATE PROCEDURE relayforge.rebuild_broker(INOUT p_written bigint DEFAULT NULL::bigint)
    LANGUAGE plpgsql
    AS $$
declare
  v_last uuid := '00000000-0000-0000-0000-000000000000';
  v_written integer;
begin
  p_written := 0;
  loop
    select s.last_job_id, s.written into v_last, v_written from relayforge.rebuild_broker_step(v_last) s;
    commit;
    p_written := p_written + v_written;
    exit when v_last is null;
  end loop;
  -- What falls due now is nobody's news otherwise.
  perform relayforge.wake_relays();
end $$;
COMMENT ON PROCEDURE relayforge.rebuild_broker(INOUT p_written bigint) IS 'Writes the messages of all open jobs anew, after the broker has lost them, in short transactions: not inside one. Harmless at any time: a message too many starts nothing. p_written comes back with how many were written.';
CREATE FUNCTION relayforge.rebuild_broker_step(p_after uuid DEFAULT '00000000-0000-0000-0000-000000000000'::uuid, p_limit integer DEFAULT 20000, p_now timestamp with time zone DEFAULT clock_timestamp()) RETURNS TABLE(last_job_id uuid, written integer)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
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
COMMENT ON FUNCTION relayforge.rebuild_broker_step(p_after uuid, p_limit integer, p_now timestamp with time zone) IS 'One step of rebuild_broker: writes the messages of up to p_limit open jobs after p_after that wait for one; returns the last job looked at, null at the end, and how many messages were written.';
CREATE FUNCTION relayforge.record_rejections(p_causes text[], p_sources text[], p_tenant_ids uuid[], p_counts bigint[], p_samples bytea[] DEFAULT NULL::bytea[], p_sample_details text[] DEFAULT NULL::text[], p_now timestamp with time zone DEFAULT clock_timestamp()) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
declare
  c_rows_per_hour constant integer := 10000;
  v_hour constant timestamptz := date_trunc('hour', p_now, 'UTC');
  v_full constant boolean :=
    (select count(*) from (select 1 from webhook_rejections r where r.hour = v_hour limit c_rows_per_hour) r) >= c_rows_per_hour;
begin
  insert into webhook_rejections as r (hour, cause, source, tenant_id, count, last_at, sample, sample_detail)
  select v_hour, i.cause, k.source, k.tenant_id, sum(i.count), p_now,
         (array_agg(substring(i.sample for 4096)) filter (where i.sample is not null and k.sampled))[1],
         (array_agg(left(i.sample_detail, 300)) filter (where i.sample is not null and k.sampled))[1]
    from unnest(p_causes, p_sources, p_tenant_ids, p_counts, p_samples, p_sample_details)
           i(cause, source, tenant_id, count, sample, sample_detail)
   cross join lateral (
     select v_full and not exists (
              select 1 from webhook_rejections e
               where e.hour = v_hour and e.cause = i.cause and e.source = i.source
                 and e.tenant_id is not distinct from i.tenant_id) as folded
   ) f
   cross join lateral (
     select case when f.folded then '' else i.source end as source, case when not f.folded then i.tenant_id end as tenant_id,
            -- None of a tenant that was suspended, and perhaps erased, since the API last looked.
            not f.folded and exists (select 1 from tenants t where t.id = i.tenant_id and t.status = 'active') as sampled
   ) k
   group by i.cause, k.source, k.tenant_id
   order by i.cause, k.source, k.tenant_id
  on conflict on constraint webhook_rejections_key do update
     set count = r.count + excluded.count,
         last_at = greatest(r.last_at, excluded.last_at),
         sample_detail = case when r.sample is null then excluded.sample_detail else r.sample_detail end,
         sample = coalesce(r.sample, excluded.sample);
end $$;
COMMENT ON FUNCTION relayforge.record_rejections(p_causes text[], p_sources text[], p_tenant_ids uuid[], p_counts bigint[], p_samples bytea[], p_sample_details text[], p_now timestamp with time zone) IS 'Adds up rejections per hour, cause, source and tenant, with one sample of what was signed but malformed.';
CREATE FUNCTION relayforge.record_secret_usage(p_secret_ids uuid[], p_uses bigint[], p_now timestamp with time zone DEFAULT clock_timestamp()) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
  insert into secret_usage as u (secret_id, uses, last_used_at)
  select i.secret_id, sum(i.uses), p_now
    from unnest(p_secret_ids, p_uses) i(secret_id, uses)
    join tenant_provider_secrets s on s.id = i.secret_id
   group by i.secret_id
   order by i.secret_id
  on conflict (secret_id) do update set uses = u.uses + excluded.uses, last_used_at = greatest(u.last_used_at, excluded.last_used_at)
$$;
COMMENT ON FUNCTION relayforge.record_secret_usage(p_secret_ids uuid[], p_uses bigint[], p_now timestamp with time zone) IS 'Adds up how many webhooks each secret version has verified.';
CREATE FUNCTION relayforge.record_traffic(p_tenant_ids uuid[], p_sources text[], p_whats text[], p_counts bigint[], p_now timestamp with time zone DEFAULT clock_timestamp()) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
  insert into traffic_minutes as m (minute, tenant_id, source, what, count)
  select date_trunc('minute', p_now), i.tenant_id, i.source, i.what, sum(i.count)
    from unnest(p_tenant_ids, p_sources, p_whats, p_counts) i(tenant_id, source, what, count)
   group by i.tenant_id, i.source, i.what
   order by i.tenant_id, i.source, i.what
  on conflict (minute, tenant_id, source, what) do update set count = m.count + excluded.count
$$;
COMMENT ON FUNCTION relayforge.record_traffic(p_tenant_ids uuid[], p_sources text[], p_whats text[], p_counts bigint[], p_now timestamp with time zone) IS 'Adds up deliveries and runs per minute, tenant and source.';
CREATE FUNCTION relayforge.relay_sleep(p_relay_id uuid, p_wakes_at timestamp with time zone) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
begin
  insert into relay_sleepers (relay_id, wakes_at) values (p_relay_id, p_wakes_at)
  on conflict (relay_id) do update set wakes_at = excluded.wakes_at;
end $$;
COMMENT ON FUNCTION relayforge.relay_sleep(p_relay_id uuid, p_wakes_at timestamp with time zone) IS 'Says that a relay will sleep until the given time unless it is woken.';
CREATE FUNCTION relayforge.relay_wake(p_relay_id uuid) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
  delete from relay_sleepers where relay_id = p_relay_id
$$;
COMMENT ON FUNCTION relayforge.relay_wake(p_relay_id uuid) IS 'Takes back relay_sleep.';
CREATE FUNCTION relayforge.release_jobs(p_job_ids uuid[], p_reason text, p_actor text DEFAULT SESSION_USER, p_now timestamp with time zone DEFAULT clock_timestamp()) RETURNS TABLE(job_id uuid, outcome text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    SET enable_seqscan TO 'off'
    AS $$
#variable_conflict use_column
declare
  v_job_ids uuid[];
  v_outcomes text[];
  v_attempts smallint[];
begin
  perform 1 from open_jobs o where o.job_id = any (p_job_ids) order by o.job_id for no key update;
  with released as (
    update open_jobs o
       set state = case when o.started_at is null then 'queued' else 'retrying' end, due_at = p_now
     where o.job_id = any (p_job_ids) and o.state = 'held'
    returning o.job_id, o.attempt
  ), sent as (
    insert into outbox_messages (id, target, job_id, event_id, attempt, next_attempt_at)
    select relayforge.uuid7(p_now, 0), 'retries', r.job_id, j.event_id, r.attempt, p_now
      from released r
      join jobs j on j.id = r.job_id
  )
  select array_agg(i.job_id order by i.job_id), array_agg(coalesce(r.attempt, 0::smallint) order by i.job_id),
         array_agg(case
                     when r.job_id is not null then 'released'
                     when o.job_id is not null then 'not_held'
                     when j.id is not null then 'final'
                     else 'unknown'
                   end order by i.job_id)
    into v_job_ids, v_attempts, v_outcomes
    from (select distinct u.job_id from unnest(p_job_ids) u(job_id)) i
    left join released r on r.job_id = i.job_id
    left join lateral (select o.job_id, o.state, o.attempt from open_jobs o where o.job_id = i.job_id offset 0) o on true
    left join jobs j on j.id = i.job_id;
  perform relayforge.audit_jobs(p_actor, 'release_jobs', p_reason, v_job_ids, v_outcomes, 'released', v_attempts, p_now);
  return query select i.job_id, i.outcome from unnest(v_job_ids, v_outcomes) i(job_id, outcome);
end $$;
COMMENT ON FUNCTION relayforge.release_jobs(p_job_ids uuid[], p_reason text, p_actor text, p_now timestamp with time zone) IS 'Lets held jobs go at once, 1 to 1,000 a call, and answers each: released, not_held, final (it has its outcome) or unknown. Audited, with the reason.';
CREATE FUNCTION relayforge.remove_retry_policy(p_tenant text, p_source text, p_reason text, p_actor text DEFAULT SESSION_USER) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
declare
  v_tenant_id uuid;
  v_removed jsonb;
begin
  v_tenant_id := relayforge.policy_tenant(p_tenant, p_source);
  delete from retry_policies r
   where r.tenant_id is not distinct from v_tenant_id and r.source is not distinct from p_source
  returning to_jsonb(r) into v_removed;
  perform relayforge.write_audit(
    p_actor, 'remove_retry_policy', format('retry_policy/%s/%s', coalesce(v_tenant_id::text, '*'), coalesce(p_source, '*')),
    p_reason, coalesce(v_removed, '{}'));
  return v_removed is not null;
end $$;
COMMENT ON FUNCTION relayforge.remove_retry_policy(p_tenant text, p_source text, p_reason text, p_actor text) IS 'Removes the retry policy of exactly this tenant and source; returns whether there was one. Audited, with the reason.';
CREATE PROCEDURE relayforge.renew_leases(IN p_job_ids uuid[], IN p_run_ids uuid[], IN p_lease interval, INOUT p_lost uuid[] DEFAULT NULL::uuid[], IN p_now timestamp with time zone DEFAULT clock_timestamp())
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
  v_busy uuid[];
begin
  v_busy := relayforge.lock_runs(p_job_ids, p_run_ids);
  update open_jobs o
     set lease_until = p_now + p_lease
   where o.job_id = any (p_job_ids) and o.run_id = any (p_run_ids) and o.job_id <> all (v_busy);
  select coalesce(array_agg(i.job_id), '{}') into p_lost
    from unnest(p_job_ids, p_run_ids) i(job_id, run_id)
    left join lateral (
      select o.job_id from open_jobs o where o.job_id = i.job_id and o.run_id = i.run_id offset 0
    ) o on true
   where o.job_id is null;
end $$;
COMMENT ON PROCEDURE relayforge.renew_leases(IN p_job_ids uuid[], IN p_run_ids uuid[], IN p_lease interval, INOUT p_lost uuid[], IN p_now timestamp with time zone) IS 'Extends the leases of runs that go on; returns the jobs that were lost.';
CREATE FUNCTION relayforge.reprocess_jobs(p_job_ids uuid[], p_reason text, p_actor text DEFAULT SESSION_USER, p_now timestamp with time zone DEFAULT clock_timestamp()) RETURNS TABLE(job_id uuid, outcome text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    SET enable_seqscan TO 'off'
    AS $$
#variable_conflict use_column
declare
  c_last_attempt constant smallint := 32000;
  v_locked uuid[];
  v_job_ids uuid[];
  v_outcomes text[];
  v_attempts smallint[];
begin
  select array_agg(q.id) into v_locked
    from (
      select j.id from jobs j where j.id = any (p_job_ids) and j.outcome is not null order by j.id for no key update
    ) q;
  select array_agg(q.job_id), array_agg(q.outcome), array_agg(q.attempts)
    into v_job_ids, v_outcomes, v_attempts
    from (
      select i.job_id, coalesce(j.attempts, 0::smallint) as attempts,
             case
               when j.id is null then 'unknown'
               when j.outcome is null or j.id <> all (coalesce(v_locked, '{}')) then 'open'
               when j.outcome = 'succeeded' then 'succeeded'
               when e.id is null or e.erased_at is not null then 'no_event'
               when j.attempts >= c_last_attempt then 'worn_out'
               else 'reprocessed'
             end as outcome
        from (select distinct u.job_id from unnest(p_job_ids) u(job_id)) i
        left join jobs j on j.id = i.job_id
        left join webhook_inbox e on e.id = j.event_id
       order by i.job_id
    ) q;
  with opened as (
    update jobs j
       set outcome = null, attempts = null, finished_at = null
      from unnest(v_job_ids, v_outcomes, v_attempts) i(job_id, outcome, attempts)
     where j.id = i.job_id and i.outcome = 'reprocessed'
    returning j.id, j.tenant_id, j.event_id, i.attempts, j.started_at
  ), queued as (
    insert into open_jobs (job_id, tenant_id, state, attempt, attempt_base, started_at, due_at)
    select o.id, o.tenant_id, 'queued', o.attempts + 1, o.attempts, o.started_at, p_now from opened o
  ), revived as (
    delete from dead_jobs d using opened o where d.job_id = o.id
  )
  insert into outbox_messages (id, target, job_id, event_id, attempt, next_attempt_at)
  select relayforge.uuid7(p_now, 0), 'retries', o.id, o.event_id, o.attempts + 1, p_now from opened o;
  perform relayforge.audit_jobs(p_actor, 'reprocess_jobs', p_reason, v_job_ids, v_outcomes, 'reprocessed', v_attempts, p_now);
  return query select i.job_id, i.outcome from unnest(v_job_ids, v_outcomes) i(job_id, outcome);
end $$;
COMMENT ON FUNCTION relayforge.reprocess_jobs(p_job_ids uuid[], p_reason text, p_actor text, p_now timestamp with time zone) IS 'Opens dead-lettered and cancelled jobs again with a fresh budget of attempts, 1 to 1,000 a call, and answers each: reprocessed, open, succeeded, no_event (erased, or past its retention), worn_out (32,000 attempts) or unknown. Audited, with the reason.';
CREATE FUNCTION relayforge.requeue_runs(p_job_ids uuid[], p_why text, p_blameless boolean, p_now timestamp with time zone) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'store', 'pg_temp'
    SET enable_seqscan TO 'off'
    AS $$
begin
  insert into job_log (id, job_id, what, attempt, detail)
  select relayforge.uuid7(p_now, 0), o.job_id, 'rescued', o.attempt, format(p_why, o.run_id)
    from open_jobs o
   where o.job_id = any (p_job_ids);
  with requeued as (
    update open_jobs o
       set state = 'retrying', attempt = o.attempt + 1, attempt_base = o.attempt_base + 1,
           starts = case when p_blameless then greatest(o.starts - 1, 0) else o.starts end,
           run_id = null, lease_until = null,
           due_at = p_now + case when p_blameless or o.starts < 2 then '0' else relayforge.backoff('5 s', '20 s', o.starts - 1, 1) end
     where o.job_id = any (p_job_ids)
    returning o.job_id, o.attempt, o.due_at
  )
  -- Among fresh work, if at once: nothing was wrong with these, and they have waited for a lease already.
  insert into outbox_messages (id, target, job_id, event_id, attempt, next_attempt_at)
  select relayforge.uuid7(p_now, 0), case when r.due_at > p_now then 'retries' else 'jobs' end,
         r.job_id, j.event_id, r.attempt, r.due_at
    from requeued r
    join jobs j on j.id = r.job_id;
end $$;
COMMENT ON FUNCTION relayforge.requeue_runs(p_job_ids uuid[], p_why text, p_blameless boolean, p_now timestamp with time zone) IS 'Puts jobs whose run ended without an outcome in the outbox again, as their next attempt.';
CREATE FUNCTION relayforge.retry_policy_of(p_tenant_id uuid, p_source text) RETURNS TABLE(max_attempts smallint, backoff_base interval, backoff_cap interval, jitter double precision)
    LANGUAGE sql STABLE
    SET search_path TO 'store', 'pg_temp'
    AS $$
  select (array_agg(r.max_attempts order by r.tenant_id, r.source) filter (where r.max_attempts is not null))[1],
         (array_agg(r.backoff_base order by r.tenant_id, r.source) filter (where r.backoff_base is not null))[1],
         (array_agg(r.backoff_cap order by r.tenant_id, r.source) filter (where r.backoff_cap is not null))[1],
         (array_agg(r.jitter order by r.tenant_id, r.source) filter (where r.jitter is not null))[1]
    from retry_policies r
    -- Nulls sort last: the wider row after the narrower.
   where (r.tenant_id = p_tenant_id or r.tenant_id is null) and (r.source = p_source or r.source is null)
$$;
COMMENT ON FUNCTION relayforge.retry_policy_of(p_tenant_id uuid, p_source text) IS 'What the retry policies say of a tenant''s source, field by field; null where none says anything.';
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
CREATE FUNCTION relayforge.seal_audit(p_lookback interval DEFAULT '01:00:00'::interval, p_limit integer DEFAULT 1000, OUT sealed integer, OUT seq bigint, OUT digest text) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
#variable_conflict use_column
declare
  v_seq bigint;
  v_digest bytea;
  v_floor uuid;
  v_row admin_audit_log;
begin
  sealed := 0;
  if not pg_try_advisory_xact_lock(relayforge.lock_key('audit')) then
    return;
  end if;
  -- The clock may have been ahead when the last one was written.
  select s.seq, s.digest, relayforge.uuid7_floor(least(relayforge.uuid7_time(s.audit_id), clock_timestamp()) - p_lookback)
    into v_seq, v_digest, v_floor
    from audit_seals s
   order by s.seq desc
   limit 1;
  v_seq := coalesce(v_seq, 0);
  v_digest := coalesce(v_digest, '');
  for v_row in
    select a.*
      from admin_audit_log a
     where (v_floor is null or a.id >= v_floor)
       and not exists (select from audit_seals s where s.audit_id = a.id)
     order by a.id
     limit p_limit
  loop
    v_seq := v_seq + 1;
    v_digest := relayforge.audit_digest(v_digest, v_row);
    insert into audit_seals (seq, audit_id, digest) values (v_seq, v_row.id, v_digest);
    sealed := sealed + 1;
  end loop;
  seq := v_seq;
  digest := encode(v_digest, 'hex');
end $$;
COMMENT ON FUNCTION relayforge.seal_audit(p_lookback interval, p_limit integer, OUT sealed integer, OUT seq bigint, OUT digest text) IS 'Seals what is committed of the audit log into a hash chain; returns how many rows, and the chain''s end.';
CREATE FUNCTION relayforge.set_retry_policy(p_tenant text, p_source text, p_reason text, p_max_attempts integer DEFAULT NULL::integer, p_backoff_base interval DEFAULT NULL::interval, p_backoff_cap interval DEFAULT NULL::interval, p_jitter double precision DEFAULT NULL::double precision, p_actor text DEFAULT SESSION_USER) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
declare
  v_tenant_id uuid;
begin
  v_tenant_id := relayforge.policy_tenant(p_tenant, p_source);
  if num_nonnulls(p_max_attempts, p_backoff_base, p_backoff_cap, p_jitter) = 0 then
    raise exception 'a retry policy says at least one of max_attempts, backoff_base, backoff_cap, jitter'
      using errcode = 'RF400', hint = 'relayforge.remove_retry_policy removes one';
  end if;
  -- The column is too small to say so by its own bound.
  if p_max_attempts > 32767 or p_max_attempts < -32768 then
    raise exception 'max_attempts is between 1 and 1000, not %', p_max_attempts
      using errcode = '23514', constraint = 'retry_policies_max_attempts_bounds';
  end if;
  insert into retry_policies (tenant_id, source, max_attempts, backoff_base, backoff_cap, jitter)
  values (v_tenant_id, p_source, p_max_attempts, p_backoff_base, p_backoff_cap, p_jitter)
  on conflict (tenant_id, source) do update
     set max_attempts = excluded.max_attempts, backoff_base = excluded.backoff_base, backoff_cap = excluded.backoff_cap,
         jitter = excluded.jitter, updated_at = clock_timestamp();
  perform relayforge.write_audit(
    p_actor, 'set_retry_policy', format('retry_policy/%s/%s', coalesce(v_tenant_id::text, '*'), coalesce(p_source, '*')), p_reason,
    jsonb_build_object('max_attempts', p_max_attempts, 'backoff_base', p_backoff_base, 'backoff_cap', p_backoff_cap,
                       'jitter', p_jitter));
end $$;
COMMENT ON FUNCTION relayforge.set_retry_policy(p_tenant text, p_source text, p_reason text, p_max_attempts integer, p_backoff_base interval, p_backoff_cap interval, p_jitter double precision, p_actor text) IS 'Says how often and how soon failed jobs of a tenant, a source, both or (null, null) everybody are tried again; a null field is left to the next wider policy, and at last to the consumers'' configuration. Counts from the next failure on. Audited, with the reason.';
CREATE FUNCTION relayforge.settle_outbox(p_confirmed uuid[], p_deferred uuid[], p_errors text[], p_backoff_base interval, p_backoff_cap interval, p_now timestamp with time zone DEFAULT clock_timestamp(), p_blameless boolean[] DEFAULT NULL::boolean[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
  v_stamp constant text := relayforge.uuid7_stamp(p_now);
  v_seed constant bigint := relayforge.uuid7_seed();
begin
  with gone as (
    delete from outbox_messages o
     where o.id = any (p_confirmed)
    returning o.id, o.target, o.job_id, o.attempt
  )
  insert into job_log (id, job_id, what, attempt)
  select relayforge.uuid7_of(v_stamp, 0, relayforge.uuid7_tail_of(v_seed, g.id)), g.job_id, 'published', g.attempt
    from gone g
   where g.target in ('jobs', 'retries');
  update outbox_messages o
     set attempts = o.attempts + 1,
         last_error = left(p_errors[array_position(p_deferred, o.id)], 2000),
         refused_since = case when p_blameless[array_position(p_deferred, o.id)] then o.refused_since
                              else coalesce(o.refused_since, p_now) end,
         next_attempt_at = p_now + relayforge.backoff(
           case when p_blameless[array_position(p_deferred, o.id)] then p_backoff_base
                else greatest(p_backoff_base, p_now - o.refused_since) end, p_backoff_cap, 1)
   where o.id = any (p_deferred);
end $$;
COMMENT ON FUNCTION relayforge.settle_outbox(p_confirmed uuid[], p_deferred uuid[], p_errors text[], p_backoff_base interval, p_backoff_cap interval, p_now timestamp with time zone, p_blameless boolean[]) IS 'Removes what the broker has confirmed and puts off the rest with its error.';
CREATE FUNCTION relayforge.start_jobs(p_job_ids uuid[], p_attempts integer[], p_lease interval, p_max_starts integer, p_now timestamp with time zone DEFAULT clock_timestamp()) RETURNS TABLE(outcome text, run_id uuid, tenant_id uuid, tenant_slug text, source text, source_kind text, job_kind text, event_id uuid, event_type text, provider_event_id text, correlation_id text, headers jsonb, body bytea, trace_context jsonb)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
declare
  v_stamp constant text := relayforge.uuid7_stamp(p_now);
  v_seed constant bigint := relayforge.uuid7_seed();
  v_outcomes text[];
  v_run_ids uuid[];
  v_poisoned uuid[];
  v_locked uuid[];
  v_starting uuid[];
  -- Sorted.
  v_started uuid[];
  v_events uuid[];
  -- One element per message; null where it started nothing.
  v_tenant_ids uuid[];
  v_sources text[];
  v_kinds text[];
  v_event_ids uuid[];
  v_event_types text[];
  v_correlation_ids text[];
  v_first uuid;
  v_last uuid;
begin
  v_locked := relayforge.lock_runs(p_job_ids);
  select array_agg(q.outcome), array_agg(case when q.outcome = 'started'
                        then relayforge.uuid7_of(v_stamp, 0, relayforge.uuid7_tail_of(v_seed, q.job_id)) end),
         array_agg(q.job_id) filter (where q.outcome = 'started'),
         array_agg(q.job_id) filter (where q.outcome = 'poisoned')
    into v_outcomes, v_run_ids, v_starting, v_poisoned
    from (
      select i.job_id, i.ord::integer as ord,
             case
               when o.job_id = any (v_locked) then 'locked'
               when o.job_id is null then 'unknown'
               when o.state = 'held' and o.due_at = 'infinity' then 'held'
               when o.attempt <> i.attempt then 'stale'
               when o.state = 'processing' then 'busy'
               when o.starts >= p_max_starts then case when i.nth = 1 then 'poisoned' else 'final' end
               when i.nth > 1 then 'busy'
               else 'started'
             end as outcome
        from (
          select a.job_id, a.attempt, a.ord, row_number() over (partition by a.job_id, a.attempt order by a.ord) as nth
            from unnest(p_job_ids, p_attempts) with ordinality as a(job_id, attempt, ord)
        ) i
        left join lateral (
          select o.job_id, o.state, o.attempt, o.starts, o.due_at from open_jobs o where o.job_id = i.job_id offset 0
        ) o on true
       order by i.ord
    ) q;
  -- In a statement of its own, which opens each partition of jobs.
  if 'unknown' = any (v_outcomes) then
    select array_agg(case when i.outcome = 'unknown' and exists (select 1 from jobs j where j.id = i.job_id) then 'final' else i.outcome end
                     order by i.ord)
      into v_outcomes
      from unnest(p_job_ids, v_outcomes) with ordinality as i(job_id, outcome, ord);
  end if;
  if v_poisoned is not null then
    perform relayforge.dead_letter_jobs(
      v_poisoned,
      array_fill('poison'::text, array[cardinality(v_poisoned)]),
      array_fill(format('%s runs in a row ended without an outcome', p_max_starts), array[cardinality(v_poisoned)]),
      p_now);
  end if;
  -- One that was opened again just now, after the lock, may be somebody else's: it is looked at once more.
  with started as (
    update open_jobs o
     set state = 'processing', run_id = relayforge.uuid7_of(v_stamp, 0, relayforge.uuid7_tail_of(v_seed, o.job_id)),
         lease_until = p_now + p_lease, started_at = p_now, starts = o.starts + 1,
         max_starts = least(p_max_starts, 32000)
   where o.job_id = any (v_starting) and o.state <> 'processing'
    returning o.job_id
  )
  select coalesce(array_agg(s.job_id order by s.job_id), '{}') into v_started from started s;
  -- Nearly never.
  if cardinality(v_started) < cardinality(v_starting) then
    select array_agg(case when i.run_id is null or i.job_id = any (v_started) then i.outcome else 'locked' end order by i.ord),
           array_agg(case when i.job_id = any (v_started) then i.run_id end order by i.ord)
      into v_outcomes, v_run_ids
      from unnest(p_job_ids, v_outcomes, v_run_ids) with ordinality as i(job_id, outcome, run_id, ord);
  end if;
  -- The partitions between the first and the last, of jobs and then of events, are all that is opened.
  v_first := v_started[1];
  v_last := v_started[cardinality(v_started)];
  select array_agg(q.tenant_id), array_agg(q.source), array_agg(q.kind), array_agg(q.event_id), array_agg(q.event_type),
         array_agg(q.correlation_id)
    into v_tenant_ids, v_sources, v_kinds, v_event_ids, v_event_types, v_correlation_ids
    from (
      select j.tenant_id, j.source, j.kind, j.event_id, j.event_type, j.correlation_id
        from generate_series(1, cardinality(p_job_ids)) as g(ord)
        -- Each by its key (lock_runs says why): between the first job and the last may be all of the jobs.
        left join lateral (
          select j.tenant_id, j.source, j.kind, j.event_id, j.event_type, j.correlation_id
            from jobs j
           where j.id = p_job_ids[g.ord] and v_run_ids[g.ord] is not null and j.id >= v_first and j.id <= v_last
          offset 0
        ) j on true
       order by g.ord
    ) q;
  -- Not in the statement above: beside an aggregate with an order of its own, PostgreSQL 16 gives all others that order, too.
  select array_agg(e.id order by e.id) into v_events from unnest(v_event_ids) e(id) where e.id is not null;
  v_first := v_events[1];
  v_last := v_events[cardinality(v_events)];
  return query
  select v_outcomes[g.ord], v_run_ids[g.ord], v_tenant_ids[g.ord], t.slug, v_sources[g.ord], s.kind, v_kinds[g.ord],
         v_event_ids[g.ord], v_event_types[g.ord], e.provider_event_id, v_correlation_ids[g.ord], e.headers, e.body, e.trace_context
    from generate_series(1, cardinality(p_job_ids)) as g(ord)
    left join lateral (
      select e.provider_event_id, e.headers, e.body, e.trace_context
        from webhook_inbox e
       where e.id = v_event_ids[g.ord] and e.id >= v_first and e.id <= v_last
      offset 0
    ) e on true
    left join lateral (select t.slug from tenants t where t.id = v_tenant_ids[g.ord] offset 0) t on true
    left join lateral (select s.kind from sources s where s.name = v_sources[g.ord] offset 0) s on true
   order by g.ord;
end $$;
COMMENT ON FUNCTION relayforge.start_jobs(p_job_ids uuid[], p_attempts integer[], p_lease interval, p_max_starts integer, p_now timestamp with time zone) IS 'Starts the runs that messages ask for; answers each with its outcome and, where started, the run id and the event.';
CREATE FUNCTION relayforge.sweep_leases(p_limit integer, p_max_starts integer DEFAULT NULL::integer, p_now timestamp with time zone DEFAULT clock_timestamp(), p_not_within interval DEFAULT '00:00:00'::interval) RETURNS TABLE(rescued integer, poisoned integer)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
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
COMMENT ON FUNCTION relayforge.sweep_leases(p_limit integer, p_max_starts integer, p_now timestamp with time zone, p_not_within interval) IS 'Takes over jobs whose lease has run out; returns how many it put in the outbox again and how many it gave up as poison. Zeros if another process sweeps just now, or has less than p_not_within ago.';
CREATE FUNCTION relayforge.tenant_of(p_tenant text) RETURNS uuid
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
begin
  return (select t.id from tenants t where t.slug = p_tenant);
end $$;
COMMENT ON FUNCTION relayforge.tenant_of(p_tenant text) IS 'A tenant''s id by its slug; null if there is none. Narrow job_overview by tenant_id = relayforge.tenant_of(…).';
CREATE FUNCTION relayforge.upkeep_step(p_step text, p_not_within interval DEFAULT '00:00:00'::interval, p_now timestamp with time zone DEFAULT clock_timestamp()) RETURNS TABLE(more boolean, done text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    AS $$
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
COMMENT ON FUNCTION relayforge.upkeep_step(p_step text, p_not_within interval, p_now timestamp with time zone) IS 'One bounded step of upkeep in the caller''s transaction; call relayforge.maintain instead.';
CREATE FUNCTION relayforge.uuid7(p_at timestamp with time zone, p_seq integer) RETURNS uuid
    LANGUAGE sql PARALLEL SAFE
    AS $$
  select relayforge.uuid7_of(relayforge.uuid7_stamp(p_at), p_seq)
$$;
COMMENT ON FUNCTION relayforge.uuid7(p_at timestamp with time zone, p_seq integer) IS 'A UUIDv7 of the given time; the sequence (its low 12 bits count) orders ids of one millisecond.';
CREATE FUNCTION relayforge.uuid7_floor(p_at timestamp with time zone) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
  select rpad(lpad(to_hex(floor(extract(epoch from p_at) * 1000)::bigint), 12, '0'), 32, '0')::uuid
$$;
COMMENT ON FUNCTION relayforge.uuid7_floor(p_at timestamp with time zone) IS 'The smallest UUIDv7 of the given time''s millisecond: narrows by time what has an id (job_id >= relayforge.uuid7_floor(now() - interval ''1 hour'')).';
CREATE FUNCTION relayforge.uuid7_of(p_stamp text, p_seq integer, p_random text DEFAULT substr((gen_random_uuid())::text, 20)) RETURNS uuid
    LANGUAGE sql PARALLEL SAFE
    AS $$
  select (p_stamp || to_hex(28672 + (p_seq & 4095)) || p_random)::uuid
$$;
COMMENT ON FUNCTION relayforge.uuid7_of(p_stamp text, p_seq integer, p_random text) IS 'A UUIDv7 of a stamp (uuid7_stamp); the sequence (its low 12 bits count) orders ids of one millisecond.';
CREATE FUNCTION relayforge.uuid7_seed() RETURNS bigint
    LANGUAGE sql PARALLEL SAFE
    AS $$ select hashtextextended(gen_random_uuid()::text, 0) $$;
COMMENT ON FUNCTION relayforge.uuid7_seed() IS 'A random seed for the ids of one batch.';
CREATE FUNCTION relayforge.uuid7_stamp(p_at timestamp with time zone) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
  select lpad(to_hex(floor(extract(epoch from p_at) * 1000)::bigint), 12, '0')
$$;
COMMENT ON FUNCTION relayforge.uuid7_stamp(p_at timestamp with time zone) IS 'The first 12 hex digits of a UUIDv7 of the given time.';
CREATE FUNCTION relayforge.uuid7_tail(p_seed bigint, p_number integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
  select to_hex((hashint4extended(p_number, p_seed) & 4611686018427387903) | (-9223372036854775808))
$$;
COMMENT ON FUNCTION relayforge.uuid7_tail(p_seed bigint, p_number integer) IS 'The last 16 hex digits of a UUIDv7, made of a random seed and a number.';
CREATE FUNCTION relayforge.uuid7_tail_of(p_seed bigint, p_key uuid) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
  select to_hex((uuid_hash_extended(p_key, p_seed) & 4611686018427387903) | (-9223372036854775808))
$$;
COMMENT ON FUNCTION relayforge.uuid7_tail_of(p_seed bigint, p_key uuid) IS 'The last 16 hex digits of a UUIDv7, made of a random seed and a key.';
CREATE FUNCTION relayforge.uuid7_time(p_id uuid) RETURNS timestamp with time zone
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
  select to_timestamp(('x' || translate(left(p_id::text, 13), '-', ''))::bit(48)::bigint / 1000.0)
$$;
COMMENT ON FUNCTION relayforge.uuid7_time(p_id uuid) IS 'The time in a UUIDv7, to the millisecond: when the job was made, the delivery received, the row written.';
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
CREATE FUNCTION relayforge.write_audit(p_actor text, p_action text, p_target text, p_reason text, p_detail jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'store', 'pg_temp'
    AS $$
begin
  if coalesce(p_reason, '') !~ '\S' or length(trim(p_reason)) > 2000 then
    raise exception 'a reason of 1 to 2,000 characters is required' using errcode = 'RF400';
  end if;
  if coalesce(p_actor, '') !~ '\S' or length(trim(p_actor)) > 200 then
    raise exception 'an actor of 1 to 200 characters is required' using errcode = 'RF400';
  end if;
  insert into admin_audit_log (id, actor, db_user, action, target, reason, detail)
  values (relayforge.uuid7(clock_timestamp(), 0), trim(p_actor), session_user, p_action, p_target, trim(p_reason), p_detail);
end $$;
COMMENT ON FUNCTION relayforge.write_audit(p_actor text, p_action text, p_target text, p_reason text, p_detail jsonb) IS 'Writes one row of the audit log, in the transaction of the change it tells of.';
CREATE FUNCTION store.notify_config_change() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'store', 'pg_temp'
    AS $$
begin
  perform pg_notify('relayforge_config', tg_table_name);
  return null;
end $$;
COMMENT ON FUNCTION store.notify_config_change() IS 'Tells the services that tenants, sources or secrets have changed.';
CREATE FUNCTION store.refuse_change() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'store', 'pg_temp'
    AS $$
begin
  raise exception '% is append-only', tg_table_name using errcode = 'RF409';
end $$;
COMMENT ON FUNCTION store.refuse_change() IS 'Keeps a table append-only, for its owner too.';
CREATE TABLE store.audit_seals (
    seq bigint NOT NULL,
    audit_id uuid NOT NULL,
    digest bytea NOT NULL,
    CONSTRAINT audit_seals_digest_length CHECK ((length(digest) = 32))
);
COMMENT ON TABLE store.audit_seals IS 'A hash chain over admin_audit_log: see relayforge.seal_audit and relayforge.audit_verify. Append-only for every role.';
COMMENT ON COLUMN store.audit_seals.seq IS 'Place in the chain: 1, 2, 3 and so on, in the order of sealing.';
COMMENT ON COLUMN store.audit_seals.audit_id IS 'The row of admin_audit_log that it seals.';
COMMENT ON COLUMN store.audit_seals.digest IS 'SHA-256 over the seal before and that row: see relayforge.audit_digest.';
CREATE VIEW relayforge.audit_log AS
 SELECT relayforge.uuid7_time(a.id) AS at,
    a.actor,
    a.db_user,
    a.action,
    a.target,
    a.reason,
    a.detail,
    s.seq AS seal,
    a.id
   FROM (store.admin_audit_log a
     LEFT JOIN store.audit_seals s ON ((s.audit_id = a.id)));
COMMENT ON VIEW relayforge.audit_log IS 'Who changed what, and why. Order by id; narrow by target, or with id >= relayforge.uuid7_floor(…). See audit_verify.';
COMMENT ON COLUMN relayforge.audit_log.at IS 'When, by the database''s clock.';
COMMENT ON COLUMN relayforge.audit_log.actor IS 'Who: the admin key, or who psql''s user said, by default the login.';
COMMENT ON COLUMN relayforge.audit_log.db_user IS 'The database role that was logged in.';
COMMENT ON COLUMN relayforge.audit_log.action IS 'What was done: the function''s name.';
COMMENT ON COLUMN relayforge.audit_log.target IS 'What it was done to: a kind and an id, for example job/0192….';
COMMENT ON COLUMN relayforge.audit_log.reason IS 'Why, in the actor''s words.';
COMMENT ON COLUMN relayforge.audit_log.detail IS 'What else there is to know, for example each job''s outcome.';
COMMENT ON COLUMN relayforge.audit_log.seal IS 'Its place in the hash chain; null until it is sealed, seconds later.';
COMMENT ON COLUMN relayforge.audit_log.id IS 'Its id, a UUIDv7.';
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
    last_error text
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
    quota_policy text DEFAULT 'reject'::text NOT NULL,
    CONSTRAINT tenants_daily_quota_positive CHECK ((daily_quota >= 0)),
    CONSTRAINT tenants_name_length CHECK (((length(name) >= 1) AND (length(name) <= 200))),
    CONSTRAINT tenants_quota_policy_known CHECK ((quota_policy = ANY (ARRAY['reject'::text, 'hold'::text]))),
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
COMMENT ON COLUMN store.tenants.quota_policy IS 'What becomes of new events over the daily quota. reject: 429. hold: accepted, and held until UTC midnight, up to one further quota; 429 beyond that.';
CREATE VIEW relayforge.dead_letters AS
 SELECT d.job_id,
    t.slug AS tenant,
    d.source,
    ( SELECT j.event_type
           FROM store.jobs j
          WHERE (j.id = d.job_id)) AS event_type,
    d.cause,
    d.dead_at,
    ( SELECT j.attempts
           FROM store.jobs j
          WHERE (j.id = d.job_id)) AS attempts,
    ( SELECT j.last_error
           FROM store.jobs j
          WHERE (j.id = d.job_id)) AS last_error,
    ( SELECT j.event_id
           FROM store.jobs j
          WHERE (j.id = d.job_id)) AS event_id,
    ( SELECT j.correlation_id
           FROM store.jobs j
          WHERE (j.id = d.job_id)) AS correlation_id
   FROM (store.dead_jobs d
     LEFT JOIN store.tenants t ON ((t.id = d.tenant_id)));
COMMENT ON VIEW relayforge.dead_letters IS 'Jobs that were given up and not reprocessed since. Order by dead_at, narrow by tenant.';
COMMENT ON COLUMN relayforge.dead_letters.job_id IS 'The job: what relayforge.reprocess_jobs takes.';
COMMENT ON COLUMN relayforge.dead_letters.tenant IS 'The tenant''s slug.';
COMMENT ON COLUMN relayforge.dead_letters.source IS 'The source.';
COMMENT ON COLUMN relayforge.dead_letters.event_type IS 'What happened, in the provider''s words.';
COMMENT ON COLUMN relayforge.dead_letters.cause IS 'permanent: the handler said so; exhausted: no attempts left; poison: runs kept ending without an outcome; expired: its event was about to be dropped; unpublishable: no message can be made of it.';
COMMENT ON COLUMN relayforge.dead_letters.dead_at IS 'When it was given up.';
COMMENT ON COLUMN relayforge.dead_letters.attempts IS 'Runs that were started.';
COMMENT ON COLUMN relayforge.dead_letters.last_error IS 'What the last failed run said.';
COMMENT ON COLUMN relayforge.dead_letters.event_id IS 'Its event: see event_timeline.';
COMMENT ON COLUMN relayforge.dead_letters.correlation_id IS 'Joins log lines.';
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
    max_starts smallint DEFAULT 5 NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0.01', autovacuum_vacuum_threshold='1000', autovacuum_vacuum_cost_delay='0', fillfactor='40');
COMMENT ON TABLE store.open_jobs IS 'One narrow row for each job that has no outcome yet. Only its key is indexed, so that state changes stay HOT.';
COMMENT ON COLUMN store.open_jobs.job_id IS 'The job.';
COMMENT ON COLUMN store.open_jobs.tenant_id IS 'Its tenant.';
COMMENT ON COLUMN store.open_jobs.state IS 'queued, processing (a run holds the lease), retrying (waits for due_at) or held (until due_at, by the quota; or until infinity, by an operator).';
COMMENT ON COLUMN store.open_jobs.attempt IS 'The number of the current attempt, from 1. A message of another attempt is stale.';
COMMENT ON COLUMN store.open_jobs.attempt_base IS 'Attempts that do not count against the budget of attempts: runs that were lost, and those before a reprocessing.';
COMMENT ON COLUMN store.open_jobs.starts IS 'Runs in a row that ended without an outcome: the poison counter.';
COMMENT ON COLUMN store.open_jobs.run_id IS 'Fencing token of the running attempt; only its holder may finish it.';
COMMENT ON COLUMN store.open_jobs.lease_until IS 'Until when the run is taken to be alive, by the database''s clock.';
COMMENT ON COLUMN store.open_jobs.started_at IS 'When the last run started.';
COMMENT ON COLUMN store.open_jobs.due_at IS 'Not to be started before.';
COMMENT ON COLUMN store.open_jobs.max_starts IS 'How many runs in a row may end without an outcome, as the consumer of the last run has it: whoever sweeps need not know.';
CREATE TABLE store.rejected_replays (
    tenant_id uuid NOT NULL,
    source text NOT NULL,
    provider_event_id text NOT NULL,
    event_id uuid NOT NULL,
    times bigint NOT NULL,
    first_at timestamp with time zone NOT NULL,
    last_at timestamp with time zone NOT NULL
);
COMMENT ON TABLE store.rejected_replays IS 'Events whose replays were refused (409), and how often. A row for an event, not for a replay.';
COMMENT ON COLUMN store.rejected_replays.tenant_id IS 'The tenant.';
COMMENT ON COLUMN store.rejected_replays.source IS 'The source.';
COMMENT ON COLUMN store.rejected_replays.provider_event_id IS 'The provider''s id of the event.';
COMMENT ON COLUMN store.rejected_replays.event_id IS 'Our id of the event.';
COMMENT ON COLUMN store.rejected_replays.times IS 'Replays refused.';
COMMENT ON COLUMN store.rejected_replays.first_at IS 'When the first of them came.';
COMMENT ON COLUMN store.rejected_replays.last_at IS 'When the last of them came.';
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
    trace_context jsonb,
    erased_at timestamp with time zone
)
PARTITION BY RANGE (id);
COMMENT ON TABLE store.webhook_inbox IS 'Every webhook that was answered 2xx, as it came. Append-only, but for erasure.';
COMMENT ON COLUMN store.webhook_inbox.id IS 'UUIDv7 of this delivery, from the database''s clock; its time is when it was received.';
COMMENT ON COLUMN store.webhook_inbox.event_id IS 'The event: the id of its first delivery. Equal to id on that one.';
COMMENT ON COLUMN store.webhook_inbox.tenant_id IS 'The tenant it was sent to.';
COMMENT ON COLUMN store.webhook_inbox.source IS 'The source it was sent to.';
COMMENT ON COLUMN store.webhook_inbox.provider_event_id IS 'The event''s id in the provider''s own numbering, if it has one.';
COMMENT ON COLUMN store.webhook_inbox.event_type IS 'What happened, in the provider''s words (for example invoice.paid).';
COMMENT ON COLUMN store.webhook_inbox.body IS 'The bytes that were signed. Null on a duplicate whose bytes are those of the first delivery or whose event has had its share of differing bodies, and where they were erased.';
COMMENT ON COLUMN store.webhook_inbox.body_sha256 IS 'SHA-256 of the bytes.';
COMMENT ON COLUMN store.webhook_inbox.headers IS 'Allow-listed request headers; no signature, no credential.';
COMMENT ON COLUMN store.webhook_inbox.signature_timestamp IS 'When the provider signed it, where its scheme says so.';
COMMENT ON COLUMN store.webhook_inbox.secret_id IS 'The secret version that verified it; null for one from the environment.';
COMMENT ON COLUMN store.webhook_inbox.correlation_id IS 'Joins log lines, from the request to the last retry.';
COMMENT ON COLUMN store.webhook_inbox.trace_context IS 'W3C traceparent, tracestate and baggage, if the request was traced.';
COMMENT ON COLUMN store.webhook_inbox.erased_at IS 'When body, headers and trace context were erased (relayforge.erase_event); null where they were not.';
CREATE VIEW relayforge.event_timeline AS
 SELECT t.slug AS tenant,
    j.source,
    p.provider_event_id,
    j.event_id,
    j.id AS job_id,
    date_trunc('milliseconds'::text, x.at) AS at,
    x.what,
    x.attempt,
    x.detail,
    ((100 * COALESCE(x.attempt, 0)) + array_position(ARRAY['received'::text, 'queued'::text, 'duplicate'::text, 'replay'::text, 'erased'::text, 'held'::text, 'released'::text, 'due'::text, 'published'::text, 'started'::text, 'rescued'::text, 'failed'::text, 'dead'::text, 'succeeded'::text, 'cancelled'::text, 'reprocessed'::text], x.what)) AS step
   FROM (((((store.jobs j
     LEFT JOIN store.tenants t ON ((t.id = j.tenant_id)))
     LEFT JOIN store.webhook_inbox e ON ((e.id = j.event_id)))
     LEFT JOIN store.open_jobs o ON ((o.job_id = j.id)))
     CROSS JOIN LATERAL ( SELECT COALESCE(e.provider_event_id,
                CASE
                    WHEN (j.dedup_key ~~ 'provider:%'::text) THEN substr(j.dedup_key, 10)
                    ELSE NULL::text
                END) AS provider_event_id,
            COALESCE((j.attempts)::integer, (o.attempt -
                CASE
                    WHEN (o.run_id IS NULL) THEN 1
                    ELSE 0
                END)) AS attempts) p)
     CROSS JOIN LATERAL ( SELECT relayforge.uuid7_time(j.event_id) AS at,
            'received'::text AS what,
            NULL::integer AS attempt,
                CASE
                    WHEN (e.id IS NULL) THEN 'its delivery is past its retention'::text
                    ELSE ('correlation id '::text || e.correlation_id)
                END AS detail
        UNION ALL
         SELECT relayforge.uuid7_time(d.id) AS uuid7_time,
            'duplicate'::text,
            NULL::integer,
                CASE
                    WHEN (d.body IS NOT NULL) THEN 'its body differs'::text
                    ELSE NULL::text
                END AS "case"
           FROM store.webhook_inbox d
          WHERE ((d.event_id = j.event_id) AND (d.event_id <> d.id))
        UNION ALL
         SELECT r.last_at,
            'replay'::text,
            NULL::integer,
            format('refused %s times since %s'::text, r.times, r.first_at) AS format
           FROM store.rejected_replays r
          WHERE ((r.tenant_id = j.tenant_id) AND (r.source = j.source) AND (r.provider_event_id = p.provider_event_id))
        UNION ALL
         SELECT e.erased_at,
            'erased'::text,
            NULL::integer,
            NULL::text
          WHERE (e.erased_at IS NOT NULL)
        UNION ALL
         SELECT relayforge.uuid7_time(j.id) AS uuid7_time,
            'queued'::text,
            NULL::integer,
            ('as a job of kind '::text || j.kind)
        UNION ALL
         SELECT relayforge.uuid7_time(l.id) AS uuid7_time,
            l.what,
            l.attempt,
            l.detail
           FROM store.job_log l
          WHERE ((l.job_id = j.id) AND (l.id >= relayforge.uuid7_floor(relayforge.uuid7_time(j.id))))
        UNION ALL
         SELECT COALESCE(o.started_at, j.started_at) AS "coalesce",
            'started'::text,
            p.attempts,
                CASE
                    WHEN (o.run_id IS NOT NULL) THEN format('run %s, its lease lasts until %s'::text, o.run_id, o.lease_until)
                    ELSE NULL::text
                END AS "case"
          WHERE (COALESCE(o.started_at, j.started_at) IS NOT NULL)
        UNION ALL
         SELECT o.due_at,
            'due'::text,
            o.attempt,
            o.state
          WHERE ((o.state = 'retrying'::text) OR ((o.state = 'held'::text) AND (o.due_at < 'infinity'::timestamp with time zone)))
        UNION ALL
         SELECT j.finished_at,
            'succeeded'::text,
            j.attempts,
            NULL::text
          WHERE (j.outcome = 'succeeded'::text)
        UNION ALL
         SELECT j.finished_at,
            'cancelled'::text,
            j.attempts,
            'its event was erased'::text
          WHERE ((j.outcome = 'cancelled'::text) AND (j.finished_at = e.erased_at))) x);
COMMENT ON VIEW relayforge.event_timeline IS 'What happened to an event and its jobs, a row each. Give it an event_id (relayforge.event_of finds it by the provider''s id) or a job_id, and order by at, step.';
COMMENT ON COLUMN relayforge.event_timeline.tenant IS 'The tenant''s slug.';
COMMENT ON COLUMN relayforge.event_timeline.source IS 'The source.';
COMMENT ON COLUMN relayforge.event_timeline.provider_event_id IS 'The provider''s id of the event.';
COMMENT ON COLUMN relayforge.event_timeline.event_id IS 'Our id of the event. Narrow by this.';
COMMENT ON COLUMN relayforge.event_timeline.job_id IS 'The job. Or by this.';
COMMENT ON COLUMN relayforge.event_timeline.at IS 'When it happened, to the millisecond. In the future for what is due.';
COMMENT ON COLUMN relayforge.event_timeline.what IS 'received, duplicate, replay (the last one refused), erased, queued, published, started (the last run), failed, rescued (lease ran out), dead, succeeded, due (the next attempt), or an operator''s verb: held, released, cancelled, reprocessed.';
COMMENT ON COLUMN relayforge.event_timeline.attempt IS 'The attempt it happened to.';
COMMENT ON COLUMN relayforge.event_timeline.detail IS 'The error, the cause, or who gave which reason.';
COMMENT ON COLUMN relayforge.event_timeline.step IS 'The order of what happened within one millisecond.';
CREATE VIEW relayforge.job_overview AS
 SELECT j.id AS job_id,
    t.slug AS tenant,
    j.source,
    j.event_type,
    COALESCE(o.state, j.outcome) AS status,
    COALESCE((j.attempts)::integer, (o.attempt -
        CASE
            WHEN (o.run_id IS NULL) THEN 1
            ELSE 0
        END)) AS attempts,
    relayforge.uuid7_time(j.id) AS created_at,
    j.finished_at,
    COALESCE(l.detail, j.last_error) AS last_error,
    j.event_id,
    j.correlation_id,
    j.tenant_id
   FROM (((store.jobs j
     LEFT JOIN store.tenants t ON ((t.id = j.tenant_id)))
     LEFT JOIN store.open_jobs o ON ((o.job_id = j.id)))
     LEFT JOIN LATERAL ( SELECT (array_agg(l_1.detail ORDER BY l_1.id DESC))[1] AS detail
           FROM store.job_log l_1
          WHERE ((l_1.job_id = j.id) AND (l_1.what = 'failed'::text) AND (l_1.id >= relayforge.uuid7_floor(relayforge.uuid7_time(j.id))) AND (o.job_id IS NOT NULL))) l ON (true));
COMMENT ON VIEW relayforge.job_overview IS 'Every job with its present state. Narrow it by job_id, by tenant_id = relayforge.tenant_of(…) or by time (job_id >= relayforge.uuid7_floor(…)).';
COMMENT ON COLUMN relayforge.job_overview.job_id IS 'The job; its time is when it was made. Narrow by this.';
COMMENT ON COLUMN relayforge.job_overview.tenant IS 'The tenant''s slug.';
COMMENT ON COLUMN relayforge.job_overview.source IS 'The source.';
COMMENT ON COLUMN relayforge.job_overview.event_type IS 'What happened, in the provider''s words.';
COMMENT ON COLUMN relayforge.job_overview.status IS 'queued, processing, retrying, held, or the outcome: succeeded, dead_lettered, cancelled.';
COMMENT ON COLUMN relayforge.job_overview.attempts IS 'Runs that were started.';
COMMENT ON COLUMN relayforge.job_overview.created_at IS 'When the job was made.';
COMMENT ON COLUMN relayforge.job_overview.finished_at IS 'When it reached its outcome; null while it is open.';
COMMENT ON COLUMN relayforge.job_overview.last_error IS 'What the last failed run said; null once the job has succeeded or was cancelled (see event_timeline).';
COMMENT ON COLUMN relayforge.job_overview.event_id IS 'Its event: see event_timeline.';
COMMENT ON COLUMN relayforge.job_overview.correlation_id IS 'Joins log lines, from the request to the last retry.';
COMMENT ON COLUMN relayforge.job_overview.tenant_id IS 'The tenant. Narrow by this rather than by its slug: for the newest jobs of a tenant the slug reads those of all.';
CREATE TABLE store.outbox_messages (
    id uuid NOT NULL,
    target text NOT NULL,
    job_id uuid NOT NULL,
    event_id uuid NOT NULL,
    attempt smallint NOT NULL,
    next_attempt_at timestamp with time zone NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    last_error text,
    refused_since timestamp with time zone
)
WITH (fillfactor='80', autovacuum_vacuum_scale_factor='0.01', autovacuum_vacuum_threshold='1000', autovacuum_vacuum_cost_delay='0');
COMMENT ON TABLE store.outbox_messages IS 'A queue: what is to be published. A row leaves it in the transaction that claimed it, once the broker has confirmed.';
COMMENT ON COLUMN store.outbox_messages.id IS 'UUIDv7 from the database''s clock.';
COMMENT ON COLUMN store.outbox_messages.target IS 'jobs: the queue of fresh work; retries: the queue of work that comes back (retried, reprocessed, or held before), so that a mass of it delays nothing new; events: the topic exchange for others; dlq: the copy of a job that was given up.';
COMMENT ON COLUMN store.outbox_messages.job_id IS 'The job.';
COMMENT ON COLUMN store.outbox_messages.event_id IS 'Its event, whose body and headers make the message.';
COMMENT ON COLUMN store.outbox_messages.attempt IS 'The attempt that the message asks for.';
COMMENT ON COLUMN store.outbox_messages.next_attempt_at IS 'Not to be published before: the due time of a retry, or the back-off after a refusal of the broker.';
COMMENT ON COLUMN store.outbox_messages.attempts IS 'Times that publishing it failed, for whatever reason.';
COMMENT ON COLUMN store.outbox_messages.last_error IS 'Why it failed last: nacked, returned as unroutable, timed out, lost.';
COMMENT ON COLUMN store.outbox_messages.refused_since IS 'Since when the broker has refused it (nacked, unroutable); null while it has not. How long it waits before it is tried again grows with this, and a stranger''s queue has an hour.';
CREATE VIEW relayforge.outbox_backlog AS
 SELECT t.target,
        CASE
            WHEN (w.seen > 100000) THEN GREATEST(w.seen, ( SELECT (c.reltuples)::bigint AS reltuples
               FROM pg_class c
              WHERE (c.oid = ('store.outbox_messages'::regclass)::oid)))
            ELSE w.seen
        END AS waiting,
    (w.seen > 100000) AS estimated,
    w.due,
    w.failing,
    w.oldest_due_at,
    w.last_error
   FROM (unnest(ARRAY['jobs'::text, 'retries'::text, 'events'::text, 'dlq'::text]) t(target)
     CROSS JOIN LATERAL ( SELECT count(*) AS seen,
            count(*) FILTER (WHERE (o.next_attempt_at <= statement_timestamp())) AS due,
            count(*) FILTER (WHERE (o.attempts > 0)) AS failing,
            min(o.next_attempt_at) AS oldest_due_at,
            (array_agg(o.last_error ORDER BY o.attempts DESC) FILTER (WHERE (o.attempts > 0)))[1] AS last_error
           FROM ( SELECT m.next_attempt_at,
                    m.attempts,
                    m.last_error
                   FROM store.outbox_messages m
                  WHERE (m.target = t.target)
                  ORDER BY m.next_attempt_at, m.id
                 LIMIT 100001) o) w);
COMMENT ON VIEW relayforge.outbox_backlog IS 'What waits for the broker, by target. Exact to 100,000 messages.';
COMMENT ON COLUMN relayforge.outbox_backlog.target IS 'jobs: the queue of fresh work; retries: the queue of work that comes back; events: the topic exchange; dlq: copies of jobs that were given up.';
COMMENT ON COLUMN relayforge.outbox_backlog.waiting IS 'Messages that wait, those due later included.';
COMMENT ON COLUMN relayforge.outbox_backlog.estimated IS 'Whether there are more than 100,000, so that waiting is the planner''s estimate over all targets and the other numbers are of the first 100,000.';
COMMENT ON COLUMN relayforge.outbox_backlog.due IS 'Messages that could be published now.';
COMMENT ON COLUMN relayforge.outbox_backlog.failing IS 'Messages that the broker has refused, or that got no confirm, at least once.';
COMMENT ON COLUMN relayforge.outbox_backlog.oldest_due_at IS 'When the oldest was or will be due.';
COMMENT ON COLUMN relayforge.outbox_backlog.last_error IS 'Why the one that was tried most often failed last.';
CREATE TABLE store.upkeep (
    singleton boolean DEFAULT true NOT NULL,
    partition_interval text DEFAULT 'day'::text NOT NULL,
    days_ahead integer DEFAULT 14 NOT NULL,
    inbox_days integer DEFAULT 14 NOT NULL,
    jobs_days integer DEFAULT 30 NOT NULL,
    dedup_window interval DEFAULT '7 days'::interval NOT NULL,
    hash_window interval DEFAULT '1 day'::interval NOT NULL,
    default_daily_quota bigint DEFAULT 100000 NOT NULL,
    last_run_at timestamp with time zone,
    cautious_until timestamp with time zone,
    lock_seed bigint DEFAULT ((('x'::text || encode(SUBSTRING(uuid_send(gen_random_uuid()) FROM 1 FOR 8), 'hex'::text)))::bit(64))::bigint NOT NULL,
    CONSTRAINT upkeep_days_ahead_bounds CHECK (((days_ahead >= 1) AND (days_ahead <= 60))),
    CONSTRAINT upkeep_dedup_window_bounds CHECK (((dedup_window >= '00:01:00'::interval) AND (dedup_window <= make_interval(days => jobs_days)))),
    CONSTRAINT upkeep_hash_window_bounds CHECK (((hash_window >= '00:00:01'::interval) AND (hash_window <= make_interval(days => jobs_days)))),
    CONSTRAINT upkeep_inbox_days_bounds CHECK (((inbox_days >= 1) AND (inbox_days <= 3650))),
    CONSTRAINT upkeep_interval_known CHECK ((partition_interval = ANY (ARRAY['day'::text, 'week'::text]))),
    CONSTRAINT upkeep_jobs_days_bounds CHECK (((jobs_days >= (inbox_days + 1)) AND (jobs_days <= 3650))),
    CONSTRAINT upkeep_live_partitions CHECK (((((jobs_days + days_ahead) /
CASE partition_interval
    WHEN 'week'::text THEN 7
    ELSE 1
END) + 2) <= 120)),
    CONSTRAINT upkeep_one_row CHECK (singleton)
);
COMMENT ON TABLE store.upkeep IS 'How long things are kept, as the API was last configured (RETENTION__…, PARTITION__…, DEDUP__…), so that upkeep from psql or pg_cron does the same. One row.';
COMMENT ON COLUMN store.upkeep.singleton IS 'Always true: there is one row.';
COMMENT ON COLUMN store.upkeep.partition_interval IS 'How long a new partition is, day or week.';
COMMENT ON COLUMN store.upkeep.days_ahead IS 'How far ahead partitions are made.';
COMMENT ON COLUMN store.upkeep.inbox_days IS 'How long deliveries are kept at least, in days.';
COMMENT ON COLUMN store.upkeep.jobs_days IS 'How long jobs and their log are kept at least, in days.';
COMMENT ON COLUMN store.upkeep.dedup_window IS 'How long an event is known by its provider''s id.';
COMMENT ON COLUMN store.upkeep.hash_window IS 'How long an event is known by the hash of its body.';
COMMENT ON COLUMN store.upkeep.default_daily_quota IS 'The daily quota of tenants that have none of their own, for tenant_usage.';
COMMENT ON COLUMN store.upkeep.last_run_at IS 'When upkeep last began; services leave it alone for the better part of a minute then.';
COMMENT ON COLUMN store.upkeep.cautious_until IS 'Nothing is expired, dropped or purged before: for an hour after the clock has jumped, or a retention was shortened.';
COMMENT ON COLUMN store.upkeep.lock_seed IS 'Makes the keys of our advisory locks this database''s own: see relayforge.lock_key.';
CREATE VIEW relayforge.partition_health AS
 SELECT p.parent AS table_name,
    p.partition,
    p.from_at,
    p.to_at,
        CASE
            WHEN (p.to_at <= statement_timestamp()) THEN 'past'::text
            WHEN (p.from_at > statement_timestamp()) THEN 'ahead'::text
            ELSE 'current'::text
        END AS state,
    p.rows,
    p.bytes,
    (p.to_at + make_interval(days =>
        CASE p.parent
            WHEN 'webhook_inbox'::text THEN k.inbox_days
            ELSE k.jobs_days
        END)) AS dropped_from,
    e.until AS runs_out_at
   FROM ((relayforge.list_partitions() p(parent, partition, from_at, to_at, rows, bytes)
     JOIN relayforge.partition_ends() e(parent, until) ON ((e.parent = p.parent)))
     CROSS JOIN store.upkeep k);
COMMENT ON VIEW relayforge.partition_health IS 'The partitions of webhook_inbox, jobs and job_log: sizes, when each may be dropped, and when its table runs out of them.';
COMMENT ON COLUMN relayforge.partition_health.table_name IS 'The partitioned table, in schema store.';
COMMENT ON COLUMN relayforge.partition_health.partition IS 'The partition.';
COMMENT ON COLUMN relayforge.partition_health.from_at IS 'Ids from this time on are in it.';
COMMENT ON COLUMN relayforge.partition_health.to_at IS 'Ids from this time on are not.';
COMMENT ON COLUMN relayforge.partition_health.state IS 'past, current or ahead.';
COMMENT ON COLUMN relayforge.partition_health.rows IS 'Rows, as last estimated.';
COMMENT ON COLUMN relayforge.partition_health.bytes IS 'Size with indexes and TOAST.';
COMMENT ON COLUMN relayforge.partition_health.dropped_from IS 'From when on upkeep may drop it.';
COMMENT ON COLUMN relayforge.partition_health.runs_out_at IS 'From when on nothing can be stored, unless further partitions are made: the end of the unbroken run from now, 14 days ahead in a healthy system.';
CREATE VIEW relayforge.queue_health AS
 SELECT q.outbox_dead_rows,
    q.outbox_vacuumed_at,
    q.open_jobs_dead_rows,
    q.open_jobs_vacuumed_at,
    q.snapshot_age_xids,
    (statement_timestamp() - q.snapshot_since) AS snapshot_age,
    q.snapshot_holder,
    b.oldest_due_at AS outbox_oldest_due_at,
    GREATEST((statement_timestamp() - b.oldest_due_at), '00:00:00'::interval) AS outbox_lag,
    l.processing,
    l.oldest_lease_until,
    GREATEST((statement_timestamp() - l.oldest_lease_until), '00:00:00'::interval) AS lease_overdue,
    q.notify_queue_usage,
    u.last_run_at AS upkeep_at
   FROM (((relayforge.inspect_queue() q(outbox_dead_rows, outbox_vacuumed_at, open_jobs_dead_rows, open_jobs_vacuumed_at, snapshot_age_xids, snapshot_since, snapshot_holder, notify_queue_usage)
     CROSS JOIN LATERAL ( SELECT min(f.next_attempt_at) AS oldest_due_at
           FROM (unnest(ARRAY['jobs'::text, 'retries'::text, 'events'::text, 'dlq'::text]) t(target)
             CROSS JOIN LATERAL ( SELECT o.next_attempt_at
                   FROM store.outbox_messages o
                  WHERE (o.target = t.target)
                  ORDER BY o.next_attempt_at
                 LIMIT 1) f)) b)
     CROSS JOIN LATERAL ( SELECT count(*) AS processing,
            min(o.lease_until) AS oldest_lease_until
           FROM store.open_jobs o
          WHERE (o.state = 'processing'::text)) l)
     CROSS JOIN store.upkeep u);
COMMENT ON VIEW relayforge.queue_health IS 'What slows the queues down: dead rows, the oldest snapshot and who holds it, overdue leases, the NOTIFY queue. One row.';
COMMENT ON COLUMN relayforge.queue_health.outbox_dead_rows IS 'Dead rows of outbox_messages that vacuum has not removed.';
COMMENT ON COLUMN relayforge.queue_health.outbox_vacuumed_at IS 'When outbox_messages was last vacuumed.';
COMMENT ON COLUMN relayforge.queue_health.open_jobs_dead_rows IS 'Dead rows of open_jobs that vacuum has not removed.';
COMMENT ON COLUMN relayforge.queue_health.open_jobs_vacuumed_at IS 'When open_jobs was last vacuumed.';
COMMENT ON COLUMN relayforge.queue_health.snapshot_age_xids IS 'Transactions since the oldest snapshot: what died since cannot be vacuumed.';
COMMENT ON COLUMN relayforge.queue_health.snapshot_age IS 'For how long that transaction has been open; null for a standby or a replication slot.';
COMMENT ON COLUMN relayforge.queue_health.snapshot_holder IS 'Who holds it: a session, a standby with hot_standby_feedback, a prepared transaction or a replication slot.';
COMMENT ON COLUMN relayforge.queue_health.outbox_oldest_due_at IS 'When the oldest message of the outbox was or will be due.';
COMMENT ON COLUMN relayforge.queue_health.outbox_lag IS 'For how long it has been due.';
COMMENT ON COLUMN relayforge.queue_health.processing IS 'Jobs under way.';
COMMENT ON COLUMN relayforge.queue_health.oldest_lease_until IS 'The lease that ends or ended first.';
COMMENT ON COLUMN relayforge.queue_health.lease_overdue IS 'For how long it has been over; beyond a few seconds no sweeper is running.';
COMMENT ON COLUMN relayforge.queue_health.notify_queue_usage IS 'Share of the server''s NOTIFY queue in use, 0 to 1; at 1, commits that notify fail.';
COMMENT ON COLUMN relayforge.queue_health.upkeep_at IS 'When upkeep last began: every minute, as long as an API or a relay runs.';
CREATE TABLE store.webhook_rejections (
    hour timestamp with time zone NOT NULL,
    cause text NOT NULL,
    source text NOT NULL,
    tenant_id uuid,
    count bigint NOT NULL,
    last_at timestamp with time zone NOT NULL,
    sample bytea,
    sample_detail text,
    CONSTRAINT webhook_rejections_cause_form CHECK ((cause ~ '^[a-z_]{1,63}$'::text)),
    CONSTRAINT webhook_rejections_sample_length CHECK ((length(sample) <= 4096))
);
COMMENT ON TABLE store.webhook_rejections IS 'How many webhooks were refused, per hour and cause. Of an unsigned caller nothing but a count; of signed but malformed bodies one sample a row.';
COMMENT ON COLUMN store.webhook_rejections.hour IS 'Start of the UTC hour.';
COMMENT ON COLUMN store.webhook_rejections.cause IS 'The code of the problem that was answered (for example signature_mismatch).';
COMMENT ON COLUMN store.webhook_rejections.source IS 'The source, or an empty text where the request named none that exists.';
COMMENT ON COLUMN store.webhook_rejections.tenant_id IS 'The tenant, null where the request named none that exists.';
COMMENT ON COLUMN store.webhook_rejections.count IS 'Rejections in that hour.';
COMMENT ON COLUMN store.webhook_rejections.last_at IS 'When the last of them was counted.';
COMMENT ON COLUMN store.webhook_rejections.sample IS 'The first 4,096 bytes of the first signed body that was refused for this cause in this hour.';
COMMENT ON COLUMN store.webhook_rejections.sample_detail IS 'What was wrong with it, as it was answered; at most 300 characters.';
CREATE VIEW relayforge.rejections AS
 SELECT r.hour,
    t.slug AS tenant,
    r.source,
    r.cause,
    r.count,
    r.last_at,
    (r.sample IS NOT NULL) AS sampled
   FROM (store.webhook_rejections r
     LEFT JOIN store.tenants t ON ((t.id = r.tenant_id)));
COMMENT ON VIEW relayforge.rejections IS 'Webhooks that were refused, per hour, tenant, source and cause. Narrow by hour.';
COMMENT ON COLUMN relayforge.rejections.hour IS 'Start of the UTC hour.';
COMMENT ON COLUMN relayforge.rejections.tenant IS 'The tenant''s slug; null where the request named none that exists.';
COMMENT ON COLUMN relayforge.rejections.source IS 'The source; empty where the request named none that exists.';
COMMENT ON COLUMN relayforge.rejections.cause IS 'The code of the problem that was answered.';
COMMENT ON COLUMN relayforge.rejections.count IS 'How many.';
COMMENT ON COLUMN relayforge.rejections.last_at IS 'When the last of them was counted.';
COMMENT ON COLUMN relayforge.rejections.sampled IS 'Whether a sample of a signed but malformed body was kept.';
CREATE VIEW relayforge.replays AS
 SELECT t.slug AS tenant,
    r.source,
    r.provider_event_id,
    r.event_id,
    r.times,
    r.first_at,
    r.last_at
   FROM (store.rejected_replays r
     LEFT JOIN store.tenants t ON ((t.id = r.tenant_id)));
COMMENT ON VIEW relayforge.replays IS 'Events whose replays were refused with 409, and how often.';
COMMENT ON COLUMN relayforge.replays.tenant IS 'The tenant''s slug.';
COMMENT ON COLUMN relayforge.replays.source IS 'The source.';
COMMENT ON COLUMN relayforge.replays.provider_event_id IS 'The provider''s id of the event.';
COMMENT ON COLUMN relayforge.replays.event_id IS 'Our id of it: see event_timeline.';
COMMENT ON COLUMN relayforge.replays.times IS 'Replays refused.';
COMMENT ON COLUMN relayforge.replays.first_at IS 'When the first of them came.';
COMMENT ON COLUMN relayforge.replays.last_at IS 'When the last of them came.';
CREATE TABLE store.retry_policies (
    tenant_id uuid,
    source text,
    max_attempts smallint,
    backoff_base interval,
    backoff_cap interval,
    jitter double precision,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT retry_policies_backoff_base_bounds CHECK (((backoff_base >= '00:00:00.001'::interval) AND (backoff_base <= '01:00:00'::interval))),
    CONSTRAINT retry_policies_backoff_cap_bounds CHECK (((backoff_cap >= '00:00:00.001'::interval) AND (backoff_cap <= '1 day'::interval))),
    CONSTRAINT retry_policies_cap_not_below_base CHECK ((backoff_cap >= backoff_base)),
    CONSTRAINT retry_policies_jitter_bounds CHECK (((jitter >= (0)::double precision) AND (jitter <= (1)::double precision))),
    CONSTRAINT retry_policies_max_attempts_bounds CHECK (((max_attempts >= 1) AND (max_attempts <= 1000))),
    CONSTRAINT retry_policies_says_something CHECK ((num_nonnulls(max_attempts, backoff_base, backoff_cap, jitter) > 0))
);
COMMENT ON TABLE store.retry_policies IS 'How often and how soon failed jobs are tried again, where it differs from what the consumers are configured with. What a row leaves null is looked for in the next wider one: tenant and source, tenant, source, everybody; then the consumer''s own.';
COMMENT ON COLUMN store.retry_policies.tenant_id IS 'The tenant; null for all.';
COMMENT ON COLUMN store.retry_policies.source IS 'The source; null for all.';
COMMENT ON COLUMN store.retry_policies.max_attempts IS 'Attempts in all, the first included.';
COMMENT ON COLUMN store.retry_policies.backoff_base IS 'Wait before the second attempt; it doubles with each further one.';
COMMENT ON COLUMN store.retry_policies.backoff_cap IS 'The longest wait.';
COMMENT ON COLUMN store.retry_policies.jitter IS 'Share of the wait that is left to chance: 0 waits exactly, 0.5 between half and all of it, 1 anything up to it.';
COMMENT ON COLUMN store.retry_policies.updated_at IS 'When the row was last written.';
CREATE VIEW relayforge.retry_policies AS
 SELECT t.slug AS tenant,
    r.source,
    r.max_attempts,
    r.backoff_base,
    r.backoff_cap,
    r.jitter,
    r.updated_at
   FROM (store.retry_policies r
     LEFT JOIN store.tenants t ON ((t.id = r.tenant_id)));
COMMENT ON VIEW relayforge.retry_policies IS 'How failed jobs are tried again, where it differs from the consumers'' configuration. Field by field, the narrowest policy counts: tenant and source, tenant, source, everybody.';
COMMENT ON COLUMN relayforge.retry_policies.tenant IS 'The tenant''s slug; null for all.';
COMMENT ON COLUMN relayforge.retry_policies.source IS 'The source; null for all.';
COMMENT ON COLUMN relayforge.retry_policies.max_attempts IS 'Attempts in all, the first included; null where a wider policy or the consumer decides.';
COMMENT ON COLUMN relayforge.retry_policies.backoff_base IS 'Wait before the second attempt; it doubles with each further one.';
COMMENT ON COLUMN relayforge.retry_policies.backoff_cap IS 'The longest wait.';
COMMENT ON COLUMN relayforge.retry_policies.jitter IS 'Share of the wait that is left to chance.';
COMMENT ON COLUMN relayforge.retry_policies.updated_at IS 'When the policy was last set.';
CREATE VIEW relayforge.schema_version AS
 SELECT c.epoch,
    c.fingerprint,
    c.migration
   FROM relayforge.schema_code() c(epoch, fingerprint, migration);
COMMENT ON VIEW relayforge.schema_version IS 'The code epoch and fingerprint and the newest migration.';
COMMENT ON COLUMN relayforge.schema_version.epoch IS 'Rises with each change of the SQL code: a binary of a higher one is not ready, a migrator of a lower one does nothing.';
COMMENT ON COLUMN relayforge.schema_version.fingerprint IS 'SHA-256 over migrations, functions and views, its first 16 bytes.';
COMMENT ON COLUMN relayforge.schema_version.migration IS 'The newest migration that was applied.';
CREATE TABLE store.secret_usage (
    secret_id uuid NOT NULL,
    uses bigint NOT NULL,
    last_used_at timestamp with time zone NOT NULL
)
WITH (fillfactor='50');
COMMENT ON TABLE store.secret_usage IS 'Which secret versions still verify webhooks. Apart from the secrets, whose every change makes the services reload.';
COMMENT ON COLUMN store.secret_usage.secret_id IS 'The secret version.';
COMMENT ON COLUMN store.secret_usage.uses IS 'Webhooks that it has verified and that were accepted or duplicates.';
COMMENT ON COLUMN store.secret_usage.last_used_at IS 'When the last of them was counted.';
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
CREATE VIEW relayforge.secret_usage AS
 SELECT t.slug AS tenant,
    s.source,
    s.id AS secret_id,
    s.created_at,
    s.retired_at,
    ((s.retired_at IS NULL) AND (NOT (EXISTS ( SELECT 1
           FROM store.tenant_provider_secrets n
          WHERE ((n.tenant_id = s.tenant_id) AND (n.source = s.source) AND (n.retired_at IS NULL) AND (n.id > s.id)))))) AS is_current,
    COALESCE(u.uses, (0)::bigint) AS uses,
    u.last_used_at
   FROM ((store.tenant_provider_secrets s
     LEFT JOIN store.tenants t ON ((t.id = s.tenant_id)))
     LEFT JOIN store.secret_usage u ON ((u.secret_id = s.id)));
COMMENT ON VIEW relayforge.secret_usage IS 'Which secret versions still verify webhooks. One that has verified nothing since the provider got the new one can be retired.';
COMMENT ON COLUMN relayforge.secret_usage.tenant IS 'The tenant''s slug.';
COMMENT ON COLUMN relayforge.secret_usage.source IS 'The source.';
COMMENT ON COLUMN relayforge.secret_usage.secret_id IS 'The secret version.';
COMMENT ON COLUMN relayforge.secret_usage.created_at IS 'When it was added.';
COMMENT ON COLUMN relayforge.secret_usage.retired_at IS 'From when on it verifies nothing; null while it is valid.';
COMMENT ON COLUMN relayforge.secret_usage.is_current IS 'Whether it is the newest valid version.';
COMMENT ON COLUMN relayforge.secret_usage.uses IS 'Webhooks that it has verified and that were accepted or duplicates.';
COMMENT ON COLUMN relayforge.secret_usage.last_used_at IS 'When the last of them was counted; null if there was none.';
CREATE VIEW relayforge.stuck_jobs AS
 SELECT DISTINCT ON (o.job_id) o.job_id,
    t.slug AS tenant,
    o.state,
    o.attempt,
    s.since,
        CASE
            WHEN (o.state = 'processing'::text) THEN 'its lease ran out and no sweeper came'::text
            WHEN (b.id IS NULL) THEN 'published, but no consumer started it'::text
            WHEN (b.last_error IS NULL) THEN 'not published yet'::text
            ELSE ('not published: '::text || b.last_error)
        END AS why
   FROM (((store.open_jobs o
     CROSS JOIN LATERAL ( SELECT
                CASE o.state
                    WHEN 'processing'::text THEN o.lease_until
                    ELSE o.due_at
                END AS since) s)
     LEFT JOIN store.tenants t ON ((t.id = o.tenant_id)))
     LEFT JOIN store.outbox_messages b ON (((b.job_id = o.job_id) AND (b.attempt = o.attempt) AND (b.target = ANY (ARRAY['jobs'::text, 'retries'::text])))))
  WHERE (((o.state = 'processing'::text) AND (o.lease_until < (statement_timestamp() - '00:00:10'::interval))) OR ((o.state <> 'processing'::text) AND (o.due_at < (statement_timestamp() - '00:05:00'::interval))))
  ORDER BY o.job_id, b.attempts DESC NULLS LAST;
COMMENT ON VIEW relayforge.stuck_jobs IS 'Open jobs that nothing seems to move, with what they wait for. Empty in a healthy system without a backlog.';
COMMENT ON COLUMN relayforge.stuck_jobs.job_id IS 'The job.';
COMMENT ON COLUMN relayforge.stuck_jobs.tenant IS 'The tenant''s slug.';
COMMENT ON COLUMN relayforge.stuck_jobs.state IS 'queued, processing, retrying or held.';
COMMENT ON COLUMN relayforge.stuck_jobs.attempt IS 'Its current attempt.';
COMMENT ON COLUMN relayforge.stuck_jobs.since IS 'When its lease ran out, or when it was due.';
COMMENT ON COLUMN relayforge.stuck_jobs.why IS 'What it waits for.';
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
CREATE VIEW relayforge.suspected_replays AS
 SELECT t.slug AS tenant,
    b.source,
    b.event_type,
    b.events,
    b.first_event_id,
    b.last_event_id,
    relayforge.uuid7_time(b.first_id) AS first_at,
    relayforge.uuid7_time(b.last_id) AS last_at
   FROM (( SELECT e.tenant_id,
            e.source,
            e.body_sha256,
            min(e.event_type) AS event_type,
            count(*) AS events,
            (min((e.event_id)::text))::uuid AS first_event_id,
            (max((e.event_id)::text))::uuid AS last_event_id,
            (min(e.first_id))::uuid AS first_id,
            (max(e.last_id))::uuid AS last_id
           FROM ( SELECT i.tenant_id,
                    i.source,
                    i.body_sha256,
                    i.event_id,
                    min(i.event_type) AS event_type,
                    min((i.id)::text) AS first_id,
                    max((i.id)::text) AS last_id
                   FROM ( SELECT i_1.id,
                            i_1.event_id,
                            i_1.tenant_id,
                            i_1.source,
                            i_1.event_type,
                            i_1.body_sha256,
                            i_1.provider_event_id
                           FROM store.webhook_inbox i_1
                          WHERE (i_1.id >= relayforge.uuid7_floor((statement_timestamp() - '1 day'::interval)))
                          ORDER BY i_1.id DESC
                         LIMIT 20000) i
                  WHERE ((i.provider_event_id IS NOT NULL) AND (i.source IN ( SELECT s.name
                           FROM store.sources s
                          WHERE (s.kind = ANY (ARRAY['generic'::text, 'github'::text])))))
                  GROUP BY i.tenant_id, i.source, i.body_sha256, i.event_id) e
          GROUP BY e.tenant_id, e.source, e.body_sha256
         HAVING (count(*) > 1)) b
     LEFT JOIN store.tenants t ON ((t.id = b.tenant_id)));
COMMENT ON VIEW relayforge.suspected_replays IS 'Bodies that came under more than one event id where the id is not signed, among the newest 20,000 deliveries of the last day.';
COMMENT ON COLUMN relayforge.suspected_replays.tenant IS 'The tenant''s slug.';
COMMENT ON COLUMN relayforge.suspected_replays.source IS 'The source.';
COMMENT ON COLUMN relayforge.suspected_replays.event_type IS 'What happened, in the provider''s words.';
COMMENT ON COLUMN relayforge.suspected_replays.events IS 'Under how many event ids the body came.';
COMMENT ON COLUMN relayforge.suspected_replays.first_event_id IS 'Our id of the first of them: see event_timeline.';
COMMENT ON COLUMN relayforge.suspected_replays.last_event_id IS 'Our id of the last of them.';
COMMENT ON COLUMN relayforge.suspected_replays.first_at IS 'When the first of them came.';
COMMENT ON COLUMN relayforge.suspected_replays.last_at IS 'When the last of them came.';
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
CREATE TABLE store.traffic_minutes (
    minute timestamp with time zone NOT NULL,
    tenant_id uuid NOT NULL,
    source text NOT NULL,
    what text NOT NULL,
    count bigint NOT NULL,
    CONSTRAINT traffic_minutes_what_known CHECK ((what = ANY (ARRAY['accepted'::text, 'duplicate'::text, 'succeeded'::text, 'retried'::text, 'dead_lettered'::text])))
)
WITH (fillfactor='80');
COMMENT ON TABLE store.traffic_minutes IS 'What happened per minute, tenant and source, so that nothing has to count jobs. Services add up in memory and write once a second: a killed one loses its last second.';
COMMENT ON COLUMN store.traffic_minutes.minute IS 'Start of the minute.';
COMMENT ON COLUMN store.traffic_minutes.tenant_id IS 'The tenant.';
COMMENT ON COLUMN store.traffic_minutes.source IS 'The source.';
COMMENT ON COLUMN store.traffic_minutes.what IS 'accepted and duplicate: deliveries; succeeded, retried and dead_lettered: runs that ended so.';
COMMENT ON COLUMN store.traffic_minutes.count IS 'How many.';
CREATE VIEW relayforge.tenant_usage AS
 SELECT t.slug AS tenant,
    t.id AS tenant_id,
    t.status,
    d.day,
    COALESCE(u.used, (0)::bigint) AS used,
    COALESCE(t.daily_quota, k.default_daily_quota) AS daily_quota,
    GREATEST((COALESCE(t.daily_quota, k.default_daily_quota) - COALESCE(u.used, (0)::bigint)), (0)::bigint) AS remaining,
    t.quota_policy,
    COALESCE(m.accepted, (0)::numeric) AS accepted_last_hour,
    COALESCE(m.duplicates, (0)::numeric) AS duplicates_last_hour,
    COALESCE(m.succeeded, (0)::numeric) AS succeeded_last_hour,
    COALESCE(m.retried, (0)::numeric) AS retried_last_hour,
    COALESCE(m.dead_lettered, (0)::numeric) AS dead_lettered_last_hour
   FROM ((((store.tenants t
     CROSS JOIN store.upkeep k)
     CROSS JOIN LATERAL ( SELECT ((statement_timestamp() AT TIME ZONE 'UTC'::text))::date AS day) d)
     LEFT JOIN store.tenant_daily_quota_usage u ON (((u.tenant_id = t.id) AND (u.day = d.day))))
     LEFT JOIN ( SELECT q.tenant_id,
            sum(q.count) FILTER (WHERE (q.what = 'accepted'::text)) AS accepted,
            sum(q.count) FILTER (WHERE (q.what = 'duplicate'::text)) AS duplicates,
            sum(q.count) FILTER (WHERE (q.what = 'succeeded'::text)) AS succeeded,
            sum(q.count) FILTER (WHERE (q.what = 'retried'::text)) AS retried,
            sum(q.count) FILTER (WHERE (q.what = 'dead_lettered'::text)) AS dead_lettered
           FROM store.traffic_minutes q
          WHERE (q.minute > (statement_timestamp() - '01:00:00'::interval))
          GROUP BY q.tenant_id) m ON ((m.tenant_id = t.id)));
COMMENT ON VIEW relayforge.tenant_usage IS 'Each tenant''s quota of this UTC day, and its traffic of the last hour.';
COMMENT ON COLUMN relayforge.tenant_usage.tenant IS 'The tenant''s slug.';
COMMENT ON COLUMN relayforge.tenant_usage.tenant_id IS 'The tenant''s id.';
COMMENT ON COLUMN relayforge.tenant_usage.status IS 'active or suspended.';
COMMENT ON COLUMN relayforge.tenant_usage.day IS 'The UTC day.';
COMMENT ON COLUMN relayforge.tenant_usage.used IS 'New events accepted that day. Above the quota where some are held.';
COMMENT ON COLUMN relayforge.tenant_usage.daily_quota IS 'The tenant''s quota, or the default that the API was last configured with.';
COMMENT ON COLUMN relayforge.tenant_usage.remaining IS 'New events that are accepted without being held until UTC midnight.';
COMMENT ON COLUMN relayforge.tenant_usage.quota_policy IS 'What becomes of events over the quota: reject or hold.';
COMMENT ON COLUMN relayforge.tenant_usage.accepted_last_hour IS 'New events of the last hour. A service that is killed loses the counts of its last second.';
COMMENT ON COLUMN relayforge.tenant_usage.duplicates_last_hour IS 'Duplicates of the last hour.';
COMMENT ON COLUMN relayforge.tenant_usage.succeeded_last_hour IS 'Runs of the last hour that succeeded.';
COMMENT ON COLUMN relayforge.tenant_usage.retried_last_hour IS 'Runs of the last hour that failed and are tried again.';
COMMENT ON COLUMN relayforge.tenant_usage.dead_lettered_last_hour IS 'Jobs that a run''s failure gave up in the last hour.';
CREATE VIEW relayforge.traffic AS
 SELECT m.minute,
    t.slug AS tenant,
    m.source,
    m.what,
    m.count
   FROM (store.traffic_minutes m
     LEFT JOIN store.tenants t ON ((t.id = m.tenant_id)));
COMMENT ON VIEW relayforge.traffic IS 'Deliveries and runs per minute, tenant and source, for the last two days. Narrow by minute.';
COMMENT ON COLUMN relayforge.traffic.minute IS 'Start of the minute.';
COMMENT ON COLUMN relayforge.traffic.tenant IS 'The tenant''s slug.';
COMMENT ON COLUMN relayforge.traffic.source IS 'The source.';
COMMENT ON COLUMN relayforge.traffic.what IS 'accepted and duplicate: deliveries; succeeded, retried and dead_lettered: runs that ended so.';
COMMENT ON COLUMN relayforge.traffic.count IS 'How many. A service that is killed loses the counts of its last second.';
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
CREATE TABLE store.dedup_ledger (
    digest bytea NOT NULL,
    event_id uuid NOT NULL,
    duplicates integer DEFAULT 0 NOT NULL,
    by_hash boolean NOT NULL
)
PARTITION BY HASH (digest);
COMMENT ON TABLE store.dedup_ledger IS 'Which events are known. Its row is the lock that two deliveries of one event meet at. Expiry is read from the time in event_id.';
COMMENT ON COLUMN store.dedup_ledger.digest IS 'First 16 bytes of SHA-256 over tenant, source and dedup key: a text key would cost 2.5 times the space.';
COMMENT ON COLUMN store.dedup_ledger.event_id IS 'The event: the id of its first delivery.';
COMMENT ON COLUMN store.dedup_ledger.duplicates IS 'Deliveries of it that were answered as duplicates.';
COMMENT ON COLUMN store.dedup_ledger.by_hash IS 'Whether the key is a hash of the body: such a key lives for DEDUP__HASH_WINDOW_SECONDS, others for DEDUP__WINDOW_DAYS.';
CREATE TABLE store.purge_positions (
    relation text NOT NULL,
    page bigint NOT NULL,
    pass_ended_at timestamp with time zone
);
COMMENT ON TABLE store.purge_positions IS 'How far the purge of each table has come. One that is killed goes on where it was.';
COMMENT ON COLUMN store.purge_positions.relation IS 'The table, in schema store.';
COMMENT ON COLUMN store.purge_positions.page IS 'The first page that the present pass has not looked at; 0 between passes.';
COMMENT ON COLUMN store.purge_positions.pass_ended_at IS 'When the last pass ended; null before the first has.';
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
CREATE UNLOGGED TABLE store.sweeps (
    singleton boolean DEFAULT true NOT NULL,
    swept_at timestamp with time zone NOT NULL,
    resumed_at timestamp with time zone NOT NULL,
    CONSTRAINT sweeps_one_row CHECK (singleton)
)
WITH (fillfactor='50');
COMMENT ON TABLE store.sweeps IS 'When leases were last swept, so that many processes together do not look more often than one would. Unlogged: after a crash the next one looks. At most one row.';
COMMENT ON COLUMN store.sweeps.singleton IS 'Always true: there is one row at most.';
COMMENT ON COLUMN store.sweeps.swept_at IS 'When the last sweep began.';
COMMENT ON COLUMN store.sweeps.resumed_at IS 'When sweeping began again after a while without: the database was away, or its clock has jumped. Runs that are alive renew their leases first.';
ALTER TABLE ONLY store.admin_api_keys
    ADD CONSTRAINT admin_api_keys_key_sha256_key UNIQUE (key_sha256);
ALTER TABLE ONLY store.admin_api_keys
    ADD CONSTRAINT admin_api_keys_pkey PRIMARY KEY (id);
ALTER TABLE ONLY store.admin_audit_log
    ADD CONSTRAINT admin_audit_log_pkey PRIMARY KEY (id);
ALTER TABLE ONLY store.audit_seals
    ADD CONSTRAINT audit_seals_audit_id_key UNIQUE (audit_id);
ALTER TABLE ONLY store.audit_seals
    ADD CONSTRAINT audit_seals_pkey PRIMARY KEY (seq);
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
ALTER TABLE ONLY store.purge_positions
    ADD CONSTRAINT purge_positions_pkey PRIMARY KEY (relation);
ALTER TABLE ONLY store.refinery_schema_history
    ADD CONSTRAINT refinery_schema_history_pkey PRIMARY KEY (version);
ALTER TABLE ONLY store.rejected_replays
    ADD CONSTRAINT rejected_replays_pkey PRIMARY KEY (tenant_id, source, provider_event_id);
ALTER TABLE ONLY store.relay_sleepers
    ADD CONSTRAINT relay_sleepers_pkey PRIMARY KEY (relay_id);
ALTER TABLE ONLY store.retry_policies
    ADD CONSTRAINT retry_policies_key UNIQUE NULLS NOT DISTINCT (tenant_id, source);
ALTER TABLE ONLY store.secret_usage
    ADD CONSTRAINT secret_usage_pkey PRIMARY KEY (secret_id);
ALTER TABLE ONLY store.sources
    ADD CONSTRAINT sources_pkey PRIMARY KEY (name);
ALTER TABLE ONLY store.stripe_event_idempotency
    ADD CONSTRAINT stripe_event_idempotency_pkey PRIMARY KEY (tenant_id, source, provider_event_id);
ALTER TABLE ONLY store.sweeps
    ADD CONSTRAINT sweeps_pkey PRIMARY KEY (singleton);
ALTER TABLE ONLY store.tenant_daily_quota_usage
    ADD CONSTRAINT tenant_daily_quota_usage_pkey PRIMARY KEY (tenant_id, day);
ALTER TABLE ONLY store.tenant_provider_secrets
    ADD CONSTRAINT tenant_provider_secrets_pkey PRIMARY KEY (id);
ALTER TABLE ONLY store.tenants
    ADD CONSTRAINT tenants_pkey PRIMARY KEY (id);
ALTER TABLE ONLY store.tenants
    ADD CONSTRAINT tenants_slug_key UNIQUE (slug);
ALTER TABLE store.tenants
    ADD CONSTRAINT tenants_slug_not_an_id CHECK ((slug !~ '^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$'::text)) NOT VALID;
ALTER TABLE ONLY store.traffic_minutes
    ADD CONSTRAINT traffic_minutes_pkey PRIMARY KEY (minute, tenant_id, source, what);
ALTER TABLE ONLY store.upkeep
    ADD CONSTRAINT upkeep_pkey PRIMARY KEY (singleton);
ALTER TABLE ONLY store.webhook_inbox
    ADD CONSTRAINT webhook_inbox_pkey PRIMARY KEY (id);
ALTER TABLE ONLY store.webhook_rejections
    ADD CONSTRAINT webhook_rejections_key UNIQUE NULLS NOT DISTINCT (hour, cause, source, tenant_id);
CREATE INDEX admin_audit_log_target_idx ON store.admin_audit_log USING btree (target, id);
CREATE INDEX dead_jobs_dead_at_idx ON store.dead_jobs USING btree (dead_at);
CREATE INDEX dead_jobs_tenant_id_dead_at_idx ON store.dead_jobs USING btree (tenant_id, dead_at);
CREATE INDEX job_log_job_id_idx ON ONLY store.job_log USING btree (job_id);
CREATE INDEX jobs_event_id_idx ON ONLY store.jobs USING btree (event_id);
CREATE INDEX jobs_tenant_id_id_idx ON ONLY store.jobs USING btree (tenant_id, id);
CREATE INDEX outbox_messages_claim_idx ON store.outbox_messages USING btree (target, next_attempt_at, id);
CREATE INDEX tenant_provider_secrets_tenant_id_source_idx ON store.tenant_provider_secrets USING btree (tenant_id, source);
CREATE INDEX webhook_inbox_duplicates_idx ON ONLY store.webhook_inbox USING btree (event_id) WHERE (event_id <> id);
CREATE TRIGGER admin_audit_log_append_only BEFORE DELETE OR UPDATE ON store.admin_audit_log FOR EACH ROW EXECUTE FUNCTION store.refuse_change();
CREATE TRIGGER admin_audit_log_no_truncate BEFORE TRUNCATE ON store.admin_audit_log FOR EACH STATEMENT EXECUTE FUNCTION store.refuse_change();
CREATE TRIGGER audit_seals_append_only BEFORE DELETE OR UPDATE ON store.audit_seals FOR EACH ROW EXECUTE FUNCTION store.refuse_change();
CREATE TRIGGER audit_seals_no_truncate BEFORE TRUNCATE ON store.audit_seals FOR EACH STATEMENT EXECUTE FUNCTION store.refuse_change();
CREATE TRIGGER sources_changed AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE ON store.sources FOR EACH STATEMENT EXECUTE FUNCTION store.notify_config_change();
CREATE TRIGGER tenant_provider_secrets_changed AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE ON store.tenant_provider_secrets FOR EACH STATEMENT EXECUTE FUNCTION store.notify_config_change();
CREATE TRIGGER tenants_changed AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE ON store.tenants FOR EACH STATEMENT EXECUTE FUNCTION store.notify_config_change();
ALTER TABLE ONLY store.retry_policies
    ADD CONSTRAINT retry_policies_source_fkey FOREIGN KEY (source) REFERENCES store.sources(name);
ALTER TABLE ONLY store.retry_policies
    ADD CONSTRAINT retry_policies_tenant_fkey FOREIGN KEY (tenant_id) REFERENCES store.tenants(id);
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
REVOKE ALL ON FUNCTION relayforge.audit_digest(p_previous bytea, p_row store.admin_audit_log) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.audit_jobs(p_actor text, p_action text, p_reason text, p_job_ids uuid[], p_outcomes text[], p_what text, p_attempts smallint[], p_now timestamp with time zone) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.audit_verify(p_seq bigint, p_digest text, OUT verified bigint, OUT unsealed bigint, OUT seq bigint, OUT digest text, OUT broken_seq bigint, OUT broken_id uuid, OUT broken_why text, OUT late bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.audit_verify(p_seq bigint, p_digest text, OUT verified bigint, OUT unsealed bigint, OUT seq bigint, OUT digest text, OUT broken_seq bigint, OUT broken_id uuid, OUT broken_why text, OUT late bigint) TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.backoff(p_base interval, p_cap interval, p_try integer, p_jitter double precision) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.cancel_jobs(p_job_ids uuid[], p_reason text, p_actor text, p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.cancel_jobs(p_job_ids uuid[], p_reason text, p_actor text, p_now timestamp with time zone) TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.check_clock(p_now timestamp with time zone) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.claim_outbox(p_target text, p_limit integer, p_from_at timestamp with time zone, p_from_id uuid, p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.claim_outbox(p_target text, p_limit integer, p_from_at timestamp with time zone, p_from_id uuid, p_now timestamp with time zone) TO relayforge_relay;
REVOKE ALL ON PROCEDURE relayforge.complete_jobs(IN p_job_ids uuid[], IN p_run_ids uuid[], INOUT p_completed uuid[], IN p_now timestamp with time zone, INOUT p_busy uuid[]) FROM PUBLIC;
GRANT ALL ON PROCEDURE relayforge.complete_jobs(IN p_job_ids uuid[], IN p_run_ids uuid[], INOUT p_completed uuid[], IN p_now timestamp with time zone, INOUT p_busy uuid[]) TO relayforge_consumer;
REVOKE ALL ON FUNCTION relayforge.configure_upkeep(p_partition_interval text, p_inbox_days integer, p_jobs_days integer, p_dedup_window interval, p_hash_window interval, p_default_daily_quota bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.configure_upkeep(p_partition_interval text, p_inbox_days integer, p_jobs_days integer, p_dedup_window interval, p_hash_window interval, p_default_daily_quota bigint) TO relayforge_api;
GRANT ALL ON FUNCTION relayforge.configure_upkeep(p_partition_interval text, p_inbox_days integer, p_jobs_days integer, p_dedup_window interval, p_hash_window interval, p_default_daily_quota bigint) TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.count_outbox() FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.count_outbox() TO relayforge_relay;
REVOKE ALL ON FUNCTION relayforge.create_admin_key(p_name text, p_role text, p_key_sha256 bytea) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.create_source(p_name text, p_kind text, p_dedup text, p_replay_policy text, p_job_kind text, p_fanout boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.create_tenant(p_slug text, p_name text, p_id uuid) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.dead_letter_jobs(p_job_ids uuid[], p_causes text[], p_errors text[], p_now timestamp with time zone) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.dedup_digest(p_tenant_id uuid, p_source text, p_dedup_key text) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.dedup_key(p_provider_event_id text, p_body_sha256 bytea) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.drop_old_partition(p_inbox_days integer, p_jobs_days integer, p_parents text[], p_now timestamp with time zone) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.ensure_partitions(p_interval text, p_days_ahead integer, p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.ensure_partitions(p_interval text, p_days_ahead integer, p_now timestamp with time zone) TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.erase_event(p_event_id uuid, p_reason text, p_actor text, p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.erase_event(p_event_id uuid, p_reason text, p_actor text, p_now timestamp with time zone) TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.erase_events(p_event_ids uuid[], p_now timestamp with time zone) FROM PUBLIC;
REVOKE ALL ON PROCEDURE relayforge.erase_tenant(IN p_tenant_id uuid, IN p_reason text, INOUT p_erased bigint, IN p_actor text, IN p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON PROCEDURE relayforge.erase_tenant(IN p_tenant_id uuid, IN p_reason text, INOUT p_erased bigint, IN p_actor text, IN p_now timestamp with time zone) TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.erase_tenant_step(p_tenant_id uuid, p_step text, p_after uuid, p_reason text, p_actor text, p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.erase_tenant_step(p_tenant_id uuid, p_step text, p_after uuid, p_reason text, p_actor text, p_now timestamp with time zone) TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.event_of(p_tenant text, p_source text, p_provider_event_id text) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.event_of(p_tenant text, p_source text, p_provider_event_id text) TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.expire_jobs(p_inbox_days integer, p_limit integer, p_now timestamp with time zone) FROM PUBLIC;
REVOKE ALL ON PROCEDURE relayforge.fail_jobs(IN p_job_ids uuid[], IN p_run_ids uuid[], IN p_errors text[], IN p_retryable boolean[], IN p_retry_after_seconds double precision[], IN p_max_attempts integer, IN p_backoff_base interval, IN p_backoff_cap interval, INOUT p_failed uuid[], INOUT p_outcomes text[], INOUT p_next_due timestamp with time zone, IN p_now timestamp with time zone, INOUT p_busy uuid[]) FROM PUBLIC;
GRANT ALL ON PROCEDURE relayforge.fail_jobs(IN p_job_ids uuid[], IN p_run_ids uuid[], IN p_errors text[], IN p_retryable boolean[], IN p_retry_after_seconds double precision[], IN p_max_attempts integer, IN p_backoff_base interval, IN p_backoff_cap interval, INOUT p_failed uuid[], INOUT p_outcomes text[], INOUT p_next_due timestamp with time zone, IN p_now timestamp with time zone, INOUT p_busy uuid[]) TO relayforge_consumer;
REVOKE ALL ON FUNCTION relayforge.find_events(p_tenant_id uuid, p_source text, p_provider_event_ids text[], p_since timestamp with time zone) FROM PUBLIC;
REVOKE ALL ON PROCEDURE relayforge.hand_back_runs(IN p_job_ids uuid[], IN p_run_ids uuid[], INOUT p_handed_back uuid[], IN p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON PROCEDURE relayforge.hand_back_runs(IN p_job_ids uuid[], IN p_run_ids uuid[], INOUT p_handed_back uuid[], IN p_now timestamp with time zone) TO relayforge_consumer;
REVOKE ALL ON FUNCTION relayforge.hold_jobs(p_job_ids uuid[], p_reason text, p_actor text, p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.hold_jobs(p_job_ids uuid[], p_reason text, p_actor text, p_now timestamp with time zone) TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.ingest_webhooks(p_tenant_ids uuid[], p_sources text[], p_provider_event_ids text[], p_event_types text[], p_bodies bytea[], p_headers jsonb[], p_signature_timestamps timestamp with time zone[], p_secret_ids uuid[], p_correlation_ids text[], p_trace_contexts jsonb[], p_default_daily_quota bigint, p_dedup_window interval, p_hash_window interval, p_now timestamp with time zone, p_body_sha256s bytea[], p_digests bytea[], p_expect_new boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.ingest_webhooks(p_tenant_ids uuid[], p_sources text[], p_provider_event_ids text[], p_event_types text[], p_bodies bytea[], p_headers jsonb[], p_signature_timestamps timestamp with time zone[], p_secret_ids uuid[], p_correlation_ids text[], p_trace_contexts jsonb[], p_default_daily_quota bigint, p_dedup_window interval, p_hash_window interval, p_now timestamp with time zone, p_body_sha256s bytea[], p_digests bytea[], p_expect_new boolean) TO relayforge_api;
REVOKE ALL ON FUNCTION relayforge.inspect_queue() FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.inspect_queue() TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.list_partitions() FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.list_partitions() TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.load_secrets(p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.load_secrets(p_now timestamp with time zone) TO relayforge_api;
REVOKE ALL ON FUNCTION relayforge.load_sources() FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.load_sources() TO relayforge_api;
REVOKE ALL ON FUNCTION relayforge.load_tenants() FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.load_tenants() TO relayforge_api;
REVOKE ALL ON FUNCTION relayforge.lock_key(p_name text) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.lock_runs(p_job_ids uuid[], p_run_ids uuid[]) FROM PUBLIC;
REVOKE ALL ON PROCEDURE relayforge.maintain(IN p_not_within interval, INOUT p_done text[], INOUT p_failed text[], IN p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON PROCEDURE relayforge.maintain(IN p_not_within interval, INOUT p_done text[], INOUT p_failed text[], IN p_now timestamp with time zone) TO relayforge_api;
GRANT ALL ON PROCEDURE relayforge.maintain(IN p_not_within interval, INOUT p_done text[], INOUT p_failed text[], IN p_now timestamp with time zone) TO relayforge_relay;
GRANT ALL ON PROCEDURE relayforge.maintain(IN p_not_within interval, INOUT p_done text[], INOUT p_failed text[], IN p_now timestamp with time zone) TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.outbox_next_due(p_from_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.outbox_next_due(p_from_at timestamp with time zone) TO relayforge_relay;
REVOKE ALL ON FUNCTION relayforge.partition_ends(p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.partition_ends(p_now timestamp with time zone) TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.partitions_end(p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.partitions_end(p_now timestamp with time zone) TO relayforge_api;
GRANT ALL ON FUNCTION relayforge.partitions_end(p_now timestamp with time zone) TO relayforge_relay;
GRANT ALL ON FUNCTION relayforge.partitions_end(p_now timestamp with time zone) TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.policy_tenant(p_tenant text, p_source text) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.purge_pages(p_relation text, p_pages integer, p_floor uuid, p_hash_floor uuid, p_now timestamp with time zone) FROM PUBLIC;
REVOKE ALL ON PROCEDURE relayforge.rebuild_broker(INOUT p_written bigint) FROM PUBLIC;
GRANT ALL ON PROCEDURE relayforge.rebuild_broker(INOUT p_written bigint) TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.rebuild_broker_step(p_after uuid, p_limit integer, p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.rebuild_broker_step(p_after uuid, p_limit integer, p_now timestamp with time zone) TO relayforge_relay;
GRANT ALL ON FUNCTION relayforge.rebuild_broker_step(p_after uuid, p_limit integer, p_now timestamp with time zone) TO relayforge_consumer;
GRANT ALL ON FUNCTION relayforge.rebuild_broker_step(p_after uuid, p_limit integer, p_now timestamp with time zone) TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.record_rejections(p_causes text[], p_sources text[], p_tenant_ids uuid[], p_counts bigint[], p_samples bytea[], p_sample_details text[], p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.record_rejections(p_causes text[], p_sources text[], p_tenant_ids uuid[], p_counts bigint[], p_samples bytea[], p_sample_details text[], p_now timestamp with time zone) TO relayforge_api;
REVOKE ALL ON FUNCTION relayforge.record_secret_usage(p_secret_ids uuid[], p_uses bigint[], p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.record_secret_usage(p_secret_ids uuid[], p_uses bigint[], p_now timestamp with time zone) TO relayforge_api;
REVOKE ALL ON FUNCTION relayforge.record_traffic(p_tenant_ids uuid[], p_sources text[], p_whats text[], p_counts bigint[], p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.record_traffic(p_tenant_ids uuid[], p_sources text[], p_whats text[], p_counts bigint[], p_now timestamp with time zone) TO relayforge_api;
GRANT ALL ON FUNCTION relayforge.record_traffic(p_tenant_ids uuid[], p_sources text[], p_whats text[], p_counts bigint[], p_now timestamp with time zone) TO relayforge_consumer;
REVOKE ALL ON FUNCTION relayforge.relay_sleep(p_relay_id uuid, p_wakes_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.relay_sleep(p_relay_id uuid, p_wakes_at timestamp with time zone) TO relayforge_relay;
REVOKE ALL ON FUNCTION relayforge.relay_wake(p_relay_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.relay_wake(p_relay_id uuid) TO relayforge_relay;
REVOKE ALL ON FUNCTION relayforge.release_jobs(p_job_ids uuid[], p_reason text, p_actor text, p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.release_jobs(p_job_ids uuid[], p_reason text, p_actor text, p_now timestamp with time zone) TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.remove_retry_policy(p_tenant text, p_source text, p_reason text, p_actor text) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.remove_retry_policy(p_tenant text, p_source text, p_reason text, p_actor text) TO relayforge_dba;
REVOKE ALL ON PROCEDURE relayforge.renew_leases(IN p_job_ids uuid[], IN p_run_ids uuid[], IN p_lease interval, INOUT p_lost uuid[], IN p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON PROCEDURE relayforge.renew_leases(IN p_job_ids uuid[], IN p_run_ids uuid[], IN p_lease interval, INOUT p_lost uuid[], IN p_now timestamp with time zone) TO relayforge_consumer;
REVOKE ALL ON FUNCTION relayforge.reprocess_jobs(p_job_ids uuid[], p_reason text, p_actor text, p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.reprocess_jobs(p_job_ids uuid[], p_reason text, p_actor text, p_now timestamp with time zone) TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.requeue_runs(p_job_ids uuid[], p_why text, p_blameless boolean, p_now timestamp with time zone) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.retry_policy_of(p_tenant_id uuid, p_source text) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.schema_code() FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.schema_code() TO relayforge_api;
GRANT ALL ON FUNCTION relayforge.schema_code() TO relayforge_relay;
GRANT ALL ON FUNCTION relayforge.schema_code() TO relayforge_consumer;
GRANT ALL ON FUNCTION relayforge.schema_code() TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.seal_audit(p_lookback interval, p_limit integer, OUT sealed integer, OUT seq bigint, OUT digest text) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.seal_audit(p_lookback interval, p_limit integer, OUT sealed integer, OUT seq bigint, OUT digest text) TO relayforge_api;
REVOKE ALL ON FUNCTION relayforge.set_retry_policy(p_tenant text, p_source text, p_reason text, p_max_attempts integer, p_backoff_base interval, p_backoff_cap interval, p_jitter double precision, p_actor text) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.set_retry_policy(p_tenant text, p_source text, p_reason text, p_max_attempts integer, p_backoff_base interval, p_backoff_cap interval, p_jitter double precision, p_actor text) TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.settle_outbox(p_confirmed uuid[], p_deferred uuid[], p_errors text[], p_backoff_base interval, p_backoff_cap interval, p_now timestamp with time zone, p_blameless boolean[]) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.settle_outbox(p_confirmed uuid[], p_deferred uuid[], p_errors text[], p_backoff_base interval, p_backoff_cap interval, p_now timestamp with time zone, p_blameless boolean[]) TO relayforge_relay;
REVOKE ALL ON FUNCTION relayforge.start_jobs(p_job_ids uuid[], p_attempts integer[], p_lease interval, p_max_starts integer, p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.start_jobs(p_job_ids uuid[], p_attempts integer[], p_lease interval, p_max_starts integer, p_now timestamp with time zone) TO relayforge_consumer;
REVOKE ALL ON FUNCTION relayforge.sweep_leases(p_limit integer, p_max_starts integer, p_now timestamp with time zone, p_not_within interval) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.sweep_leases(p_limit integer, p_max_starts integer, p_now timestamp with time zone, p_not_within interval) TO relayforge_consumer;
GRANT ALL ON FUNCTION relayforge.sweep_leases(p_limit integer, p_max_starts integer, p_now timestamp with time zone, p_not_within interval) TO relayforge_relay;
REVOKE ALL ON FUNCTION relayforge.tenant_of(p_tenant text) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.tenant_of(p_tenant text) TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.upkeep_step(p_step text, p_not_within interval, p_now timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.upkeep_step(p_step text, p_not_within interval, p_now timestamp with time zone) TO relayforge_api;
GRANT ALL ON FUNCTION relayforge.upkeep_step(p_step text, p_not_within interval, p_now timestamp with time zone) TO relayforge_relay;
GRANT ALL ON FUNCTION relayforge.upkeep_step(p_step text, p_not_within interval, p_now timestamp with time zone) TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.uuid7(p_at timestamp with time zone, p_seq integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.uuid7_floor(p_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.uuid7_floor(p_at timestamp with time zone) TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.uuid7_of(p_stamp text, p_seq integer, p_random text) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.uuid7_seed() FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.uuid7_stamp(p_at timestamp with time zone) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.uuid7_tail(p_seed bigint, p_number integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.uuid7_tail_of(p_seed bigint, p_key uuid) FROM PUBLIC;
REVOKE ALL ON FUNCTION relayforge.uuid7_time(p_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.uuid7_time(p_id uuid) TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.wake_relays(p_earliest_due timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION relayforge.wake_relays(p_earliest_due timestamp with time zone) TO relayforge_api;
GRANT ALL ON FUNCTION relayforge.wake_relays(p_earliest_due timestamp with time zone) TO relayforge_relay;
GRANT ALL ON FUNCTION relayforge.wake_relays(p_earliest_due timestamp with time zone) TO relayforge_consumer;
GRANT ALL ON FUNCTION relayforge.wake_relays(p_earliest_due timestamp with time zone) TO relayforge_dba;
REVOKE ALL ON FUNCTION relayforge.write_audit(p_actor text, p_action text, p_target text, p_reason text, p_detail jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION store.notify_config_change() FROM PUBLIC;
REVOKE ALL ON FUNCTION store.refuse_change() FROM PUBLIC;
GRANT SELECT ON TABLE relayforge.audit_log TO relayforge_dba;
GRANT SELECT ON TABLE relayforge.dead_letters TO relayforge_dba;
GRANT SELECT ON TABLE relayforge.event_timeline TO relayforge_dba;
GRANT SELECT ON TABLE relayforge.job_overview TO relayforge_dba;
GRANT SELECT ON TABLE relayforge.outbox_backlog TO relayforge_dba;
GRANT SELECT ON TABLE relayforge.partition_health TO relayforge_dba;
GRANT SELECT ON TABLE relayforge.queue_health TO relayforge_dba;
GRANT SELECT ON TABLE relayforge.rejections TO relayforge_dba;
GRANT SELECT ON TABLE relayforge.replays TO relayforge_dba;
GRANT SELECT ON TABLE relayforge.retry_policies TO relayforge_dba;
GRANT SELECT ON TABLE relayforge.schema_version TO relayforge_dba;
GRANT SELECT ON TABLE relayforge.secret_usage TO relayforge_dba;
GRANT SELECT ON TABLE relayforge.stuck_jobs TO relayforge_dba;
GRANT SELECT ON TABLE relayforge.suspected_replays TO relayforge_dba;
GRANT SELECT ON TABLE relayforge.tenant_usage TO relayforge_dba;
GRANT SELECT ON TABLE relayforge.traffic TO relayforge_dba;
