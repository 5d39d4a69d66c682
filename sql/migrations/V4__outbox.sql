-- What waits for the broker, and which relays sleep.

create table store.outbox_messages (
  id uuid not null,
  target text not null,
  job_id uuid not null,
  event_id uuid not null,
  attempt smallint not null,
  next_attempt_at timestamptz not null,
  attempts integer not null default 0,
  last_error text,
  constraint outbox_messages_pkey primary key (id),
  constraint outbox_messages_target_known check (target in ('jobs', 'events', 'dlq'))
) with (
  fillfactor = 80,
  autovacuum_vacuum_scale_factor = 0.01,
  autovacuum_vacuum_threshold = 1000,
  autovacuum_vacuum_cost_delay = 0
);
create index outbox_messages_claim_idx on store.outbox_messages (target, next_attempt_at, id);
comment on table store.outbox_messages is 'A queue: what is to be published. A row leaves it in the transaction that claimed it, once the broker has confirmed.';
comment on column store.outbox_messages.id is 'UUIDv7 from the database''s clock.';
comment on column store.outbox_messages.target is 'jobs: the work queue; events: the topic exchange for others; dlq: the copy of a job that was given up.';
comment on column store.outbox_messages.job_id is 'The job.';
comment on column store.outbox_messages.event_id is 'Its event, whose body and headers make the message.';
comment on column store.outbox_messages.attempt is 'The attempt that the message asks for.';
comment on column store.outbox_messages.next_attempt_at is 'Not to be published before: the due time of a retry, or the back-off after a refusal of the broker.';
comment on column store.outbox_messages.attempts is 'Times that publishing it failed.';
comment on column store.outbox_messages.last_error is 'Why it failed last: nacked, returned as unroutable, timed out, lost.';

create unlogged table store.relay_sleepers (
  relay_id uuid not null,
  wakes_at timestamptz not null,
  constraint relay_sleepers_pkey primary key (relay_id)
);
comment on table store.relay_sleepers is 'Relays that have found nothing to do. A writer notifies only if one of them would sleep past its row. Unlogged: after a crash every relay polls once.';
comment on column store.relay_sleepers.relay_id is 'The relay, named anew at each start.';
comment on column store.relay_sleepers.wakes_at is 'When it looks again by itself.';
