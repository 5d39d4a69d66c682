//! The real thing: the functions called with the model's clock as `p_now` (the wrappers of `sql` leave it to the
//! database's), and the stored state. A sequence runs in one transaction that is rolled back, so that each finds the
//! tables empty; what needs two sessions is in `races.rs`.

use anyhow::Result;
use serde_json::json;
use sql::ingest::Fingerprint;
use sql::testing::TestDb;
use sql::{GenericClient as _, Object};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::intake::{DEDUP_WINDOW, HASH_WINDOW, QUOTA};
use super::model::{
    BACKOFF_BASE_SECONDS, BACKOFF_CAP_SECONDS, INBOX_DAYS, LEASE_SECONDS, MAX_ATTEMPTS, MAX_STARTS, Time,
};
use super::op::{Key, Sent, Source, Tenant, Verb};

/// A connection as the server's superuser: who may call what is for the catalogue test.
pub(crate) struct Database(Object);

impl Tenant {
    pub(crate) fn id(self) -> Uuid {
        Uuid::from_u128(100 + self as u128)
    }
}

impl Source {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::Stripe => "stripe",
            Self::Never => "never",
            Self::Loud => "loud",
            Self::Each => "each",
            Self::Nowhere => "nowhere",
        }
    }
}

impl Key {
    pub(crate) fn provider_event_id(self) -> Option<String> {
        match self {
            Self::Id(id) => Some(id.to_string()),
            Self::Body(_) => None,
        }
    }

    fn body(self) -> Vec<u8> {
        match self {
            Self::Id(_) => b"{}".to_vec(),
            Self::Body(body) => format!("{{\"body\":{body}}}").into_bytes(),
        }
    }
}

fn seconds(seconds: u16) -> f64 {
    seconds.into()
}

impl Database {
    /// Makes the tenants and sources, once a database.
    pub(crate) async fn prepare(db: &TestDb) -> Self {
        let client = db.pool("owner").get().await.unwrap();
        for tenant in Tenant::ALL {
            let (quota, policy, status) = match tenant {
                Tenant::Free => (1_000_000, "reject", "active"),
                Tenant::Strict => (i64::from(QUOTA), "reject", "active"),
                Tenant::Lenient => (i64::from(QUOTA), "hold", "active"),
                Tenant::Suspended => (1_000_000, "reject", "suspended"),
                Tenant::Nobody => continue,
            };
            let insert = "insert into store.tenants (id, slug, name, status, daily_quota, quota_policy)
                          values ($1, $2, 'x', $3, $4, $5)";
            let slug = format!("{tenant:?}").to_lowercase();
            client
                .execute(insert, &[&tenant.id(), &slug, &status, &quota, &policy])
                .await
                .unwrap();
        }
        client
            .batch_execute(&format!(
                "insert into store.sources (name, kind, dedup, replay_policy, fanout) values
                   ('never', 'generic', 'event_id', 'reject_all', false),
                   ('loud', 'generic', 'event_id_or_hash', 'absorb', true),
                   ('each', 'generic', 'none', 'absorb', false);
                 update store.upkeep set inbox_days = {INBOX_DAYS}"
            ))
            .await
            .unwrap();
        Self(client)
    }

    /// Forgets everything since the last call.
    pub(crate) async fn reset(&self) -> Result<()> {
        Ok(self.0.batch_execute("rollback; begin").await?)
    }

    pub(crate) async fn rows(&self, query: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        let statement = self.0.prepare_cached(query).await?;
        Ok(self.0.query(&statement, parameters).await?)
    }

    async fn row(&self, query: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row> {
        let statement = self.0.prepare_cached(query).await?;
        Ok(self.0.query_one(&statement, parameters).await?)
    }

    /// Rows of outcome, event_id, job_id, retry_after_seconds.
    pub(crate) async fn ingest(&self, batch: &[Sent], start: Time, now: Time) -> Result<Vec<Row>> {
        let tenants: Vec<Uuid> = batch.iter().map(|sent| sent.tenant.id()).collect();
        let sources: Vec<&str> = batch.iter().map(|sent| sent.source.name()).collect();
        let ids: Vec<Option<String>> = batch.iter().map(|sent| sent.key.provider_event_id()).collect();
        let bodies: Vec<Vec<u8>> = batch.iter().map(|sent| sent.key.body()).collect();
        let signed: Vec<Option<Time>> = batch
            .iter()
            .map(|sent| Some(start + chrono::TimeDelta::seconds(sent.signed?.into())))
            .collect();
        let (none, text): (Vec<Option<Uuid>>, Vec<&str>) = batch.iter().map(|_| (None, "model")).unzip();
        let objects = vec![json!({ "a": "b" }); batch.len()];
        // Half of the batches have them handed in, and half are guessed, often wrongly, to be new.
        let prints: Option<Vec<Fingerprint>> = (batch.len() % 2 == 1).then(|| {
            let fields = batch.iter().zip(&ids).zip(&bodies);
            fields
                .map(|((sent, id), body)| {
                    Fingerprint::of(sent.tenant.id(), sent.source.name(), id.as_deref(), body)
                })
                .collect()
        });
        let hashes: Option<Vec<&[u8]>> = prints
            .as_ref()
            .map(|all| all.iter().map(Fingerprint::body_sha256).collect());
        let digests: Option<Vec<&[u8]>> = prints
            .as_ref()
            .map(|all| all.iter().map(Fingerprint::digest).collect());
        let expect_new = now.timestamp() % 2 == 0;
        self.rows(
            "select outcome, event_id, job_id, retry_after_seconds
               from relayforge.ingest_webhooks($1, $2, $3, $8, $4, $7, $5, $6, $8, $7, 0,
                      make_interval(secs => $9), make_interval(secs => $10), p_now => $11,
                      p_body_sha256s => $12, p_digests => $13, p_expect_new => $14)",
            &[
                &tenants,
                &sources,
                &ids,
                &bodies,
                &signed,
                &none,
                &objects,
                &text,
                &DEDUP_WINDOW.as_seconds_f64(),
                &HASH_WINDOW.as_seconds_f64(),
                &now,
                &hashes,
                &digests,
                &expect_new,
            ],
        )
        .await
    }

    /// Rows of id, job_id, attempt, attempts, body.
    pub(crate) async fn claim(&self, target: &str, limit: u8, now: Time) -> Result<Vec<Row>> {
        self.rows(
            "select id, job_id, attempt, attempts, body from relayforge.claim_outbox($1, $2, p_now => $3)",
            &[&target, &i32::from(limit), &now],
        )
        .await
    }

    pub(crate) async fn settle(&self, confirmed: &[Uuid], deferred: &[Uuid], now: Time) -> Result<()> {
        self.row(
            "select relayforge.settle_outbox($1, $2, array_fill('nacked'::text, array[cardinality($2::uuid[])]),
                      make_interval(secs => $3), make_interval(secs => $4), p_now => $5)",
            &[
                &confirmed,
                &deferred,
                &seconds(BACKOFF_BASE_SECONDS),
                &seconds(BACKOFF_CAP_SECONDS),
                &now,
            ],
        )
        .await?;
        Ok(())
    }

    pub(crate) async fn abandon(&self, ids: &[Uuid], now: Time) -> Result<()> {
        self.row(
            "select relayforge.abandon_outbox($1, array_fill('too large'::text, array[cardinality($1::uuid[])]), p_now => $2)",
            &[&ids, &now],
        )
        .await?;
        Ok(())
    }

    /// Rows of outcome, run_id, event_id, body.
    pub(crate) async fn start(&self, asked: &[(Uuid, i16)], now: Time) -> Result<Vec<Row>> {
        let (jobs, attempts): (Vec<Uuid>, Vec<i32>) = asked
            .iter()
            .map(|(job, attempt)| (*job, i32::from(*attempt)))
            .unzip();
        self.rows(
            "select outcome, run_id, event_id, body
               from relayforge.start_jobs($1, $2, make_interval(secs => $3), $4, p_now => $5)",
            &[
                &jobs,
                &attempts,
                &seconds(LEASE_SECONDS),
                &i32::from(MAX_STARTS),
                &now,
            ],
        )
        .await
    }

    /// The jobs that were completed.
    pub(crate) async fn complete(&self, runs: &[(Uuid, Uuid)], now: Time) -> Result<Vec<Uuid>> {
        let (jobs, runs): (Vec<Uuid>, Vec<Uuid>) = runs.iter().copied().unzip();
        let call = "call relayforge.complete_jobs($1, $2, null, p_now => $3)";
        Ok(self.row(call, &[&jobs, &runs, &now]).await?.get(0))
    }

    /// p_failed, p_outcomes, p_next_due.
    pub(crate) async fn fail(
        &self,
        (job, run): (Uuid, Uuid),
        retryable: bool,
        retry_after_seconds: Option<u16>,
        now: Time,
    ) -> Result<Row> {
        self.row(
            "call relayforge.fail_jobs(array[$1::uuid], array[$2::uuid], array['no answer'], array[$3::boolean],
                    array[$4::double precision], $5, make_interval(secs => $6), make_interval(secs => $7),
                    null, null, null, p_now => $8)",
            &[
                &job,
                &run,
                &retryable,
                &retry_after_seconds.map(f64::from),
                &i32::from(MAX_ATTEMPTS),
                &seconds(BACKOFF_BASE_SECONDS),
                &seconds(BACKOFF_CAP_SECONDS),
                &now,
            ],
        )
        .await
    }

    /// The jobs that were lost.
    pub(crate) async fn renew(&self, (job, run): (Uuid, Uuid), now: Time) -> Result<Vec<Uuid>> {
        let call = "call relayforge.renew_leases(array[$1::uuid], array[$2::uuid], make_interval(secs => $3),
                           null, p_now => $4)";
        let row = self
            .row(call, &[&job, &run, &seconds(LEASE_SECONDS), &now])
            .await?;
        Ok(row.get(0))
    }

    /// The jobs that were handed back.
    pub(crate) async fn hand_back(&self, (job, run): (Uuid, Uuid), now: Time) -> Result<Vec<Uuid>> {
        let call = "call relayforge.hand_back_runs(array[$1::uuid], array[$2::uuid], null, p_now => $3)";
        Ok(self.row(call, &[&job, &run, &now]).await?.get(0))
    }

    /// How many messages were written, in steps of two jobs.
    pub(crate) async fn rebuild_broker(&self, now: Time) -> Result<i64> {
        let mut written = 0;
        let mut last = Some(Uuid::nil());
        while let Some(after) = last {
            let query = "select last_job_id, written from relayforge.rebuild_broker_step($1, 2, p_now => $2)";
            let row = self.row(query, &[&after, &now]).await?;
            last = row.get(0);
            written += i64::from(row.get::<_, i32>(1));
        }
        Ok(written)
    }

    /// How many were rescued and poisoned.
    pub(crate) async fn sweep(&self, limit: u8, max_starts: u16, now: Time) -> Result<(i32, i32)> {
        let row = self
            .row(
                "select rescued, poisoned from relayforge.sweep_leases($1, $2, p_now => $3)",
                &[&i32::from(limit), &i32::from(max_starts), &now],
            )
            .await?;
        Ok((row.get(0), row.get(1)))
    }

    /// Job and outcome, by job.
    pub(crate) async fn verb(&self, verb: Verb, jobs: &[Uuid], now: Time) -> Result<Vec<(Uuid, String)>> {
        let function = match verb {
            Verb::Cancel => "cancel_jobs",
            Verb::Hold => "hold_jobs",
            Verb::Release => "release_jobs",
            Verb::Reprocess => "reprocess_jobs",
        };
        let query = format!("select job_id, outcome from relayforge.{function}($1, 'model', p_now => $2)");
        let rows = self.rows(&query, &[&jobs, &now]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    pub(crate) async fn erase(&self, event: Uuid, now: Time) -> Result<i64> {
        let row = self
            .row(
                "select relayforge.erase_event($1, 'model', p_now => $2)",
                &[&event, &now],
            )
            .await?;
        Ok(row.get(0))
    }

    pub(crate) async fn expire(&self, now: Time) -> Result<()> {
        self.row(
            "select more from relayforge.upkeep_step('expire', p_now => $1)",
            &[&now],
        )
        .await?;
        Ok(())
    }
}
