-- Quotas that hold, samples of what was refused, replays by event, traffic per minute, upkeep, and the audit log.

alter table store.tenants
  add column quota_policy text not null default 'reject',
  add constraint tenants_quota_policy_known check (quota_policy in ('reject', 'hold')),
  -- A slug that reads as an id would name two tenants. Rows from before are left as they are.
  add constraint tenants_slug_not_an_id
    check (slug !~ '^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$') not valid;
comment on column store.tenants.quota_policy is 'What becomes of new events over the daily quota. reject: 429. hold: accepted, and held until UTC midnight, up to one further quota; 429 beyond that.';

alter table store.webhook_inbox add column erased_at timestamptz;
comment on table store.webhook_inbox is 'Every webhook that was answered 2xx, as it came. Append-only, but for erasure.';
comment on column store.webhook_inbox.body is 'The bytes that were signed. Null on a duplicate whose bytes are those of the first delivery or whose event has had its share of differing bodies, and where they were erased.';
comment on column store.webhook_inbox.erased_at is 'When body, headers and trace context were erased (relayforge.erase_event); null where they were not.';

comment on column store.open_jobs.state is 'queued, processing (a run holds the lease), retrying (waits for due_at) or held (until due_at, by the quota; or until infinity, by an operator).';

-- Room for the second version of each row, which is larger, also when an old snapshot keeps the first: at 50 a quarter of
-- the updates had to leave their page then, and one in fourteen without.
alter table store.open_jobs set (fillfactor = 40);

create index dead_jobs_dead_at_idx on store.dead_jobs (dead_at);

create table store.rejected_replays (
  tenant_id uuid not null,
  source text not null,
  provider_event_id text not null,
  event_id uuid not null,
  times bigint not null,
  first_at timestamptz not null,
  last_at timestamptz not null,
  constraint rejected_replays_pkey primary key (tenant_id, source, provider_event_id)
);
comment on table store.rejected_replays is 'Events whose replays were refused (409), and how often. A row for an event, not for a replay.';
comment on column store.rejected_replays.tenant_id is 'The tenant.';
comment on column store.rejected_replays.source is 'The source.';
comment on column store.rejected_replays.provider_event_id is 'The provider''s id of the event.';
comment on column store.rejected_replays.event_id is 'Our id of the event.';
comment on column store.rejected_replays.times is 'Replays refused.';
comment on column store.rejected_replays.first_at is 'When the first of them came.';
comment on column store.rejected_replays.last_at is 'When the last of them came.';

alter table store.webhook_rejections
  add column sample bytea,
  add column sample_detail text,
  add constraint webhook_rejections_sample_length check (length(sample) <= 4096);
comment on table store.webhook_rejections is 'How many webhooks were refused, per hour and cause. Of an unsigned caller nothing but a count; of signed but malformed bodies one sample a row.';
comment on column store.webhook_rejections.sample is 'The first 4,096 bytes of the first signed body that was refused for this cause in this hour.';
comment on column store.webhook_rejections.sample_detail is 'What was wrong with it, as it was answered; at most 300 characters.';

create table store.traffic_minutes (
  minute timestamptz not null,
  tenant_id uuid not null,
  source text not null,
  what text not null,
  count bigint not null,
  constraint traffic_minutes_pkey primary key (minute, tenant_id, source, what),
  constraint traffic_minutes_what_known check (what in ('accepted', 'duplicate', 'succeeded', 'retried', 'dead_lettered'))
) with (fillfactor = 80);
comment on table store.traffic_minutes is 'What happened per minute, tenant and source, so that nothing has to count jobs. Services add up in memory and write once a second: a killed one loses its last second.';
comment on column store.traffic_minutes.minute is 'Start of the minute.';
comment on column store.traffic_minutes.tenant_id is 'The tenant.';
comment on column store.traffic_minutes.source is 'The source.';
comment on column store.traffic_minutes.what is 'accepted and duplicate: deliveries; succeeded, retried and dead_lettered: runs that ended so.';
comment on column store.traffic_minutes.count is 'How many.';

create table store.secret_usage (
  secret_id uuid not null,
  uses bigint not null,
  last_used_at timestamptz not null,
  constraint secret_usage_pkey primary key (secret_id)
) with (fillfactor = 50);
comment on table store.secret_usage is 'Which secret versions still verify webhooks. Apart from the secrets, whose every change makes the services reload.';
comment on column store.secret_usage.secret_id is 'The secret version.';
comment on column store.secret_usage.uses is 'Webhooks that it has verified and that were accepted or duplicates.';
comment on column store.secret_usage.last_used_at is 'When the last of them was counted.';

create table store.upkeep (
  singleton boolean not null default true,
  partition_interval text not null default 'day',
  days_ahead integer not null default 14,
  inbox_days integer not null default 14,
  jobs_days integer not null default 30,
  dedup_window interval not null default '7 days',
  hash_window interval not null default '1 day',
  default_daily_quota bigint not null default 100000,
  last_run_at timestamptz,
  cautious_until timestamptz,
  lock_seed bigint not null default ('x' || encode(substring(uuid_send(gen_random_uuid()) for 8), 'hex'))::bit(64)::bigint,
  constraint upkeep_pkey primary key (singleton),
  constraint upkeep_one_row check (singleton),
  constraint upkeep_interval_known check (partition_interval in ('day', 'week')),
  constraint upkeep_days_ahead_bounds check (days_ahead between 1 and 60),
  constraint upkeep_inbox_days_bounds check (inbox_days between 1 and 3650),
  -- A job outlives its event by a day, so that nobody meets an event whose job is gone.
  constraint upkeep_jobs_days_bounds check (jobs_days between inbox_days + 1 and 3650),
  constraint upkeep_dedup_window_bounds check (dedup_window between '1 minute' and make_interval(days => jobs_days)),
  constraint upkeep_hash_window_bounds check (hash_window between '1 second' and make_interval(days => jobs_days)),
  -- Every query on a partitioned table plans over all of its partitions.
  constraint upkeep_live_partitions check (
    (jobs_days + days_ahead) / case partition_interval when 'week' then 7 else 1 end + 2 <= 120)
);
insert into store.upkeep default values;
comment on table store.upkeep is 'How long things are kept, as the API was last configured (RETENTION__…, PARTITION__…, DEDUP__…), so that upkeep from psql or pg_cron does the same. One row.';
comment on column store.upkeep.singleton is 'Always true: there is one row.';
comment on column store.upkeep.partition_interval is 'How long a new partition is, day or week.';
comment on column store.upkeep.days_ahead is 'How far ahead partitions are made.';
comment on column store.upkeep.inbox_days is 'How long deliveries are kept at least, in days.';
comment on column store.upkeep.jobs_days is 'How long jobs and their log are kept at least, in days.';
comment on column store.upkeep.dedup_window is 'How long an event is known by its provider''s id.';
comment on column store.upkeep.hash_window is 'How long an event is known by the hash of its body.';
comment on column store.upkeep.default_daily_quota is 'The daily quota of tenants that have none of their own, for tenant_usage.';
comment on column store.upkeep.cautious_until is 'Nothing is expired, dropped or purged before: for an hour after the clock has jumped, or a retention was shortened.';
comment on column store.upkeep.lock_seed is 'Makes the keys of our advisory locks this database''s own: see relayforge.lock_key.';
comment on column store.upkeep.last_run_at is 'When upkeep last began; services leave it alone for the better part of a minute then.';

create table store.purge_positions (
  relation text not null,
  page bigint not null,
  pass_ended_at timestamptz,
  constraint purge_positions_pkey primary key (relation)
);
comment on table store.purge_positions is 'How far the purge of each table has come. One that is killed goes on where it was.';
comment on column store.purge_positions.relation is 'The table, in schema store.';
comment on column store.purge_positions.page is 'The first page that the present pass has not looked at; 0 between passes.';
comment on column store.purge_positions.pass_ended_at is 'When the last pass ended; null before the first has.';

create table store.admin_audit_log (
  id uuid not null,
  actor text not null,
  db_user text not null,
  action text not null,
  target text not null,
  reason text not null,
  detail jsonb not null,
  constraint admin_audit_log_pkey primary key (id),
  constraint admin_audit_log_actor_length check (length(actor) between 1 and 200),
  constraint admin_audit_log_reason_length check (length(reason) between 1 and 2000)
);
create index admin_audit_log_target_idx on store.admin_audit_log (target, id);
comment on table store.admin_audit_log is 'Who changed what, and why. Written in the transaction of the change; append-only for every role.';
comment on column store.admin_audit_log.id is 'UUIDv7 from the database''s clock; its time is when it happened.';
comment on column store.admin_audit_log.actor is 'Who: the admin key, or the database role when it was done from psql.';
comment on column store.admin_audit_log.db_user is 'The database role that was logged in.';
comment on column store.admin_audit_log.action is 'What was done: the function''s name.';
comment on column store.admin_audit_log.target is 'What it was done to: a kind and an id, for example tenant/0192….';
comment on column store.admin_audit_log.reason is 'Why, in the actor''s words.';
comment on column store.admin_audit_log.detail is 'What else there is to know, for example how many jobs.';

create function store.refuse_change() returns trigger language plpgsql
set search_path = store, pg_temp as $$
begin
  raise exception '% is append-only', tg_table_name using errcode = 'RF409';
end $$;
comment on function store.refuse_change is 'Keeps a table append-only, for its owner too.';
create trigger admin_audit_log_append_only before update or delete on store.admin_audit_log
  for each row execute function store.refuse_change();
create trigger admin_audit_log_no_truncate before truncate on store.admin_audit_log
  for each statement execute function store.refuse_change();

create table store.audit_seals (
  seq bigint not null,
  audit_id uuid not null,
  digest bytea not null,
  constraint audit_seals_pkey primary key (seq),
  constraint audit_seals_audit_id_key unique (audit_id),
  constraint audit_seals_digest_length check (length(digest) = 32)
);
comment on table store.audit_seals is 'A hash chain over admin_audit_log: see relayforge.seal_audit and relayforge.audit_verify. Append-only for every role.';
comment on column store.audit_seals.seq is 'Place in the chain: 1, 2, 3 and so on, in the order of sealing.';
comment on column store.audit_seals.audit_id is 'The row of admin_audit_log that it seals.';
comment on column store.audit_seals.digest is 'SHA-256 over the seal before and that row: see relayforge.audit_digest.';
create trigger audit_seals_append_only before update or delete on store.audit_seals
  for each row execute function store.refuse_change();
create trigger audit_seals_no_truncate before truncate on store.audit_seals
  for each statement execute function store.refuse_change();
