-- What ingest consults: uniqueness across partitions, replays, quotas, and a count of what was refused.

create table store.dedup_ledger (
  digest bytea not null,
  event_id uuid not null,
  duplicates integer not null default 0,
  by_hash boolean not null,
  constraint dedup_ledger_pkey primary key (digest),
  constraint dedup_ledger_digest_length check (length(digest) = 16)
) partition by hash (digest);
do $$
begin
  for v_remainder in 0..7 loop
    execute format(
      'create table store.dedup_ledger_%s partition of store.dedup_ledger
         for values with (modulus 8, remainder %s)
         with (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05)',
      v_remainder, v_remainder);
  end loop;
end $$;
comment on table store.dedup_ledger is 'Which events are known. Its row is the lock that two deliveries of one event meet at. Expiry is read from the time in event_id.';
comment on column store.dedup_ledger.digest is 'First 16 bytes of SHA-256 over tenant, source and dedup key: a text key would cost 2.5 times the space.';
comment on column store.dedup_ledger.event_id is 'The event: the id of its first delivery.';
comment on column store.dedup_ledger.duplicates is 'Deliveries of it that were answered as duplicates.';
comment on column store.dedup_ledger.by_hash is 'Whether the key is a hash of the body: such a key lives for DEDUP__HASH_WINDOW_SECONDS, others for DEDUP__WINDOW_DAYS.';

create table store.stripe_event_idempotency (
  tenant_id uuid not null,
  source text not null,
  provider_event_id text not null,
  event_id uuid not null,
  signature_timestamp timestamptz not null,
  constraint stripe_event_idempotency_pkey primary key (tenant_id, source, provider_event_id)
);
comment on table store.stripe_event_idempotency is 'The newest signature seen on each event of a source that rejects replays (stripe, unless told otherwise).';
comment on column store.stripe_event_idempotency.tenant_id is 'The tenant.';
comment on column store.stripe_event_idempotency.source is 'The source. In the key because a provider sends one event to several endpoints of a tenant, and the second is no replay of the first.';
comment on column store.stripe_event_idempotency.provider_event_id is 'The provider''s id of the event.';
comment on column store.stripe_event_idempotency.event_id is 'Our id of the event.';
comment on column store.stripe_event_idempotency.signature_timestamp is 'A delivery that was not signed after this is a replay. -infinity where the scheme has no timestamp.';

create table store.tenant_daily_quota_usage (
  tenant_id uuid not null,
  day date not null,
  used bigint not null,
  constraint tenant_daily_quota_usage_pkey primary key (tenant_id, day)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
comment on table store.tenant_daily_quota_usage is 'New events accepted per tenant and UTC day. Ingest holds the row''s lock for its transaction.';
comment on column store.tenant_daily_quota_usage.tenant_id is 'The tenant.';
comment on column store.tenant_daily_quota_usage.day is 'The UTC day, by the database''s clock.';
comment on column store.tenant_daily_quota_usage.used is 'New events accepted that day; a duplicate or a rejection adds nothing.';

create table store.webhook_rejections (
  hour timestamptz not null,
  cause text not null,
  source text not null,
  tenant_id uuid,
  count bigint not null,
  last_at timestamptz not null,
  constraint webhook_rejections_key unique nulls not distinct (hour, cause, source, tenant_id),
  constraint webhook_rejections_cause_form check (cause ~ '^[a-z_]{1,63}$')
);
comment on table store.webhook_rejections is 'How many webhooks were refused, per hour and cause. Counts only: nothing of what an unsigned caller sent.';
comment on column store.webhook_rejections.hour is 'Start of the UTC hour.';
comment on column store.webhook_rejections.cause is 'The code of the problem that was answered (for example signature_mismatch).';
comment on column store.webhook_rejections.source is 'The source, or an empty text where the request named none that exists.';
comment on column store.webhook_rejections.tenant_id is 'The tenant, null where the request named none that exists.';
comment on column store.webhook_rejections.count is 'Rejections in that hour.';
comment on column store.webhook_rejections.last_at is 'When the last of them was counted.';
