-- What is counted and noted beside the jobs.

-- Quotas: each tenant on each of the thirty days.
insert into tenant_daily_quota_usage (tenant_id, day, used)
select t.id, (current_setting('fill.now')::timestamptz at time zone 'UTC')::date - d,
       1 + current_setting('fill.jobs')::bigint / 30 / case when t.slug like 'large-%' then 18 else 10000 end
  from tenants t
 cross join generate_series(0, 29) d
 where t.slug <> 'idle'
on conflict do nothing;

-- Two days of minutes, of two sources of each large tenant and of twenty small ones at a time.
insert into traffic_minutes (minute, tenant_id, source, what, count)
select date_trunc('minute', current_setting('fill.now')::timestamptz) - m * interval '1 minute', t.id, s.source, w.what,
       1 + (m + t.nth) % 40
  from generate_series(0, least(2879, greatest(60, current_setting('fill.jobs')::bigint / 1000))) m
 cross join (select id, slug, row_number() over (order by id) as nth from tenants where slug ~ '^(large|small)-') t
 cross join (values ('generic'), ('stripe')) s(source)
 cross join (values ('accepted'), ('succeeded')) w(what)
 where t.nth <= 16 or t.nth % 50 = m % 50;

-- Thirty days of rejections, and one hour in which somebody tried everything: as many rows as an hour may have.
insert into webhook_rejections (hour, cause, source, tenant_id, count, last_at)
select h.hour, c.cause, s.source, t.id, 1 + extract(hour from h.hour)::bigint, h.hour + interval '59 minutes'
  from (select date_trunc('hour', current_setting('fill.now')::timestamptz, 'UTC') - n * interval '1 hour' as hour
          from generate_series(0, 719) n) h
 cross join (values ('signature_mismatch'), ('signature_stale'), ('rate_limited'), ('quota_exceeded')) c(cause)
 cross join (values ('generic'), ('github'), ('stripe')) s(source)
 cross join (select id from tenants where slug like 'large-%' order by id limit 4) t;
insert into webhook_rejections (hour, cause, source, tenant_id, count, last_at)
select date_trunc('day', current_setting('fill.now')::timestamptz, 'UTC'), c.cause, s.name, t.id, 7,
       date_trunc('day', current_setting('fill.now')::timestamptz, 'UTC') + interval '59 minutes'
  from tenants t
 cross join sources s
 cross join (values ('signature_missing'), ('body_too_large'), ('schema_violation'), ('event_id_required')) c(cause)
 limit 10000;

insert into secret_usage (secret_id, uses, last_used_at)
select s.id, 1000, coalesce(s.retired_at, current_setting('fill.now')::timestamptz) from tenant_provider_secrets s;

insert into admin_audit_log (id, actor, db_user, action, target, reason, detail)
select relayforge.uuid7(current_setting('fill.now')::timestamptz - n * interval '20 minutes', 0), 'perf', 'perf', 'reprocess_jobs',
       'job/' || gen_random_uuid(), 'the shop is back', '{"reprocessed": 1}'
  from generate_series(1, 2000) n;

insert into retry_policies (tenant_id, max_attempts, backoff_base)
select t.id, 8, interval '30 seconds' from tenants t where t.slug like 'large-%' order by t.id limit 20;
