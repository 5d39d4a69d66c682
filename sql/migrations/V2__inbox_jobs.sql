-- What came in and what became of it. Partitioned by id: an id is a UUIDv7, so it says in which partition its row is,
-- every index stays local, and retention drops a partition. No foreign key leads to or from these tables,
-- because each one would stop a partition from being dropped. Partitions are made by relayforge.ensure_partitions.

create table store.webhook_inbox (
  id uuid not null,
  event_id uuid not null,
  tenant_id uuid not null,
  source text not null,
  provider_event_id text,
  event_type text not null,
  body bytea,
  body_sha256 bytea not null,
  headers jsonb not null,
  signature_timestamp timestamptz,
  secret_id uuid,
  correlation_id text not null,
  trace_context jsonb,
  constraint webhook_inbox_pkey primary key (id)
) partition by range (id);
create index webhook_inbox_duplicates_idx on store.webhook_inbox (event_id) where event_id <> id;
comment on table store.webhook_inbox is 'Every webhook that was answered 2xx, as it came. Append-only.';
comment on column store.webhook_inbox.id is 'UUIDv7 of this delivery, from the database''s clock; its time is when it was received.';
comment on column store.webhook_inbox.event_id is 'The event: the id of its first delivery. Equal to id on that one.';
comment on column store.webhook_inbox.tenant_id is 'The tenant it was sent to.';
comment on column store.webhook_inbox.source is 'The source it was sent to.';
comment on column store.webhook_inbox.provider_event_id is 'The event''s id in the provider''s own numbering, if it has one.';
comment on column store.webhook_inbox.event_type is 'What happened, in the provider''s words (for example invoice.paid).';
comment on column store.webhook_inbox.body is 'The bytes that were signed. Null on a duplicate whose bytes are those of the first delivery.';
comment on column store.webhook_inbox.body_sha256 is 'SHA-256 of the bytes.';
comment on column store.webhook_inbox.headers is 'Allow-listed request headers; no signature, no credential.';
comment on column store.webhook_inbox.signature_timestamp is 'When the provider signed it, where its scheme says so.';
comment on column store.webhook_inbox.secret_id is 'The secret version that verified it; null for one from the environment.';
comment on column store.webhook_inbox.correlation_id is 'Joins log lines, from the request to the last retry.';
comment on column store.webhook_inbox.trace_context is 'W3C traceparent, tracestate and baggage, if the request was traced.';

create table store.jobs (
  id uuid not null,
  event_id uuid not null,
  tenant_id uuid not null,
  source text not null,
  kind text not null,
  event_type text not null,
  dedup_key text,
  correlation_id text not null,
  outcome text,
  attempts smallint,
  started_at timestamptz,
  finished_at timestamptz,
  last_error text,
  constraint jobs_pkey primary key (id),
  constraint jobs_outcome_known check (outcome in ('succeeded', 'dead_lettered', 'cancelled'))
) partition by range (id);
create index jobs_event_id_idx on store.jobs (event_id);
create index jobs_tenant_id_id_idx on store.jobs (tenant_id, id);
comment on table store.jobs is 'One piece of work for one event. Written when it is made and once more when it ends; between, open_jobs has its state.';
comment on column store.jobs.id is 'UUIDv7 from the database''s clock; its time is when the job was made.';
comment on column store.jobs.event_id is 'The event it is for (webhook_inbox.id). One event may have several jobs.';
comment on column store.jobs.tenant_id is 'The tenant of the event.';
comment on column store.jobs.source is 'The source of the event.';
comment on column store.jobs.kind is 'The handler that runs it.';
comment on column store.jobs.event_type is 'The type of the event.';
comment on column store.jobs.dedup_key is 'provider:<event id> or hash:<sha-256 of the body>; null where the source does not deduplicate.';
comment on column store.jobs.correlation_id is 'That of the delivery that made it.';
comment on column store.jobs.outcome is 'succeeded, dead_lettered or cancelled; null while the job is open.';
comment on column store.jobs.attempts is 'Runs that were started; null while the job is open.';
comment on column store.jobs.started_at is 'When its last run started.';
comment on column store.jobs.finished_at is 'When it reached its outcome.';
comment on column store.jobs.last_error is 'What the last failed run said, at most 2,000 characters.';

create table store.open_jobs (
  job_id uuid not null,
  tenant_id uuid not null,
  state text not null,
  attempt smallint not null,
  attempt_base smallint not null default 0,
  starts smallint not null default 0,
  run_id uuid,
  lease_until timestamptz,
  started_at timestamptz,
  due_at timestamptz not null,
  constraint open_jobs_pkey primary key (job_id),
  constraint open_jobs_state_known check (state in ('queued', 'processing', 'retrying', 'held')),
  constraint open_jobs_run_has_lease check ((state = 'processing') = (run_id is not null and lease_until is not null))
) with (
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0.01,
  autovacuum_vacuum_threshold = 1000,
  autovacuum_vacuum_cost_delay = 0
);
comment on table store.open_jobs is 'One narrow row for each job that has no outcome yet. Only its key is indexed, so that state changes stay HOT.';
comment on column store.open_jobs.job_id is 'The job.';
comment on column store.open_jobs.tenant_id is 'Its tenant.';
comment on column store.open_jobs.state is 'queued, processing (a run holds the lease), retrying (waits for due_at) or held (by an operator).';
comment on column store.open_jobs.attempt is 'The number of the current attempt, from 1. A message of another attempt is stale.';
comment on column store.open_jobs.attempt_base is 'Attempts that do not count against the budget of attempts: runs that were lost, and those before a reprocessing.';
comment on column store.open_jobs.starts is 'Runs in a row that ended without an outcome: the poison counter.';
comment on column store.open_jobs.run_id is 'Fencing token of the running attempt; only its holder may finish it.';
comment on column store.open_jobs.lease_until is 'Until when the run is taken to be alive, by the database''s clock.';
comment on column store.open_jobs.started_at is 'When the last run started.';
comment on column store.open_jobs.due_at is 'Not to be started before.';

create table store.dead_jobs (
  job_id uuid not null,
  tenant_id uuid not null,
  source text not null,
  cause text not null,
  dead_at timestamptz not null,
  constraint dead_jobs_pkey primary key (job_id),
  constraint dead_jobs_cause_known check (cause in ('permanent', 'exhausted', 'poison', 'expired', 'unpublishable'))
);
create index dead_jobs_tenant_id_dead_at_idx on store.dead_jobs (tenant_id, dead_at);
comment on table store.dead_jobs is 'Jobs that were given up and not reprocessed since.';
comment on column store.dead_jobs.job_id is 'The job.';
comment on column store.dead_jobs.tenant_id is 'Its tenant.';
comment on column store.dead_jobs.source is 'Its source.';
comment on column store.dead_jobs.cause is 'permanent: the handler said so; exhausted: no attempts left; poison: runs kept ending without an outcome; expired: its event is about to be dropped; unpublishable: no message can be made of it.';
comment on column store.dead_jobs.dead_at is 'When it was given up.';

create table store.job_log (
  id uuid not null,
  job_id uuid not null,
  what text not null,
  attempt smallint not null,
  detail text,
  constraint job_log_pkey primary key (id),
  constraint job_log_what_known check (what in (
    'published', 'failed', 'rescued', 'dead', 'reprocessed', 'cancelled', 'held', 'released'))
) partition by range (id);
create index job_log_job_id_idx on store.job_log (job_id);
comment on table store.job_log is 'What happened to a job between its creation and its end. Append-only.';
comment on column store.job_log.id is 'UUIDv7 from the database''s clock; its time is when it happened.';
comment on column store.job_log.job_id is 'The job.';
comment on column store.job_log.what is 'published (confirmed by the broker), failed, rescued (lease ran out), dead, or an operator''s verb.';
comment on column store.job_log.attempt is 'The attempt it happened to.';
comment on column store.job_log.detail is 'The error, the cause or the reason; at most 2,000 characters.';
