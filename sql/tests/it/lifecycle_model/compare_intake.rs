//! What the tables hold of events against what the model says: ledger, replays, quotas, deliveries; and how often the
//! operators' verbs are in the audit log.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use chrono::TimeDelta;
use tokio_postgres::Row;
use uuid::Uuid;

use super::compare::same;
use super::intake::{EventKey, Known};
use super::model::Time;
use super::step::Case;

impl Case<'_> {
    pub(crate) async fn compare_intake(&self) -> Result<()> {
        self.compare_ledger().await?;
        self.compare_signatures().await?;
        self.compare_counts().await?;
        self.compare_deliveries().await?;
        let audited = self
            .database
            .rows("select count(*) from store.admin_audit_log", &[])
            .await?;
        ensure!(
            audited[0].get::<_, i64>(0) == self.model.audited,
            "rows of the audit log"
        );
        Ok(())
    }

    /// Events that are known. What is past its window may be there or not.
    fn known(&self) -> impl Iterator<Item = (&EventKey, &Known)> {
        let ledger = self.model.intake.ledger.iter();
        ledger.filter(|(key, known)| self.model.is_known(key.2, known.job))
    }

    async fn compare_ledger(&self) -> Result<()> {
        let rows = self
            .database
            .rows("select event_id, duplicates from store.dedup_ledger", &[])
            .await?;
        let found: BTreeMap<Uuid, i32> = rows.iter().map(|r| (r.get(0), r.get(1))).collect();
        for (key, known) in self.known() {
            let found = found.get(&self.model.jobs[known.job].event);
            ensure!(
                found == Some(&known.duplicates),
                "ledger of {key:?}: {found:?}, expected {known:?}"
            );
        }
        for event in found.keys() {
            let mut ledger = self.model.intake.ledger.values();
            let ours = ledger.any(|known| self.model.jobs[known.job].event == *event);
            ensure!(ours, "the ledger has {event}, whose key is free");
        }
        Ok(())
    }

    async fn compare_signatures(&self) -> Result<()> {
        let rows = self
            .database
            .rows(
                "select event_id, case when signature_timestamp > '-infinity' then signature_timestamp end
                   from store.stripe_event_idempotency",
                &[],
            )
            .await?;
        let found: BTreeMap<Uuid, Option<Time>> = rows.iter().map(|r| (r.get(0), r.get(1))).collect();
        for (key, known) in self.known().filter(|(key, _)| key.1.rejects()) {
            let signed = known
                .signed
                .map(|s| self.model.start + TimeDelta::seconds(s.into()));
            let found = found.get(&self.model.jobs[known.job].event);
            ensure!(
                found == Some(&signed),
                "newest signature of {key:?}: {found:?}, expected {signed:?}"
            );
        }
        Ok(())
    }

    /// Quotas used and replays refused.
    async fn compare_counts(&self) -> Result<()> {
        let query = "select tenant_id, day, used from store.tenant_daily_quota_usage where used > 0";
        let rows = self.database.rows(query, &[]).await?;
        let found = rows.iter().map(|r| ((r.get(0), r.get(1)), r.get(2))).collect();
        let used = self.model.intake.used.iter().filter(|(_, used)| **used > 0);
        let expected = used.map(|((tenant, day), used)| ((tenant.id(), *day), *used));
        same("quota", &found, &expected.collect())?;

        let query = "select tenant_id, source, provider_event_id, times from store.rejected_replays";
        let rows = self.database.rows(query, &[]).await?;
        let found = rows
            .iter()
            .map(|r| ((r.get(0), r.get(1), r.get(2)), r.get(3)))
            .collect();
        let name = |key: &EventKey| (key.0.id(), key.1.name().to_owned(), key.2.provider_event_id());
        let replays = self.model.intake.replays.iter();
        same(
            "replays",
            &found,
            &replays.map(|(key, (_, times))| (name(key), *times)).collect(),
        )
    }

    /// Deliveries of each event, how many are erased, and how many of an erased event still say something.
    async fn compare_deliveries(&self) -> Result<()> {
        let rows = self
            .database
            .rows(
                "select event_id, count(*), count(erased_at), bool_or(id = event_id and erased_at is not null),
                        count(*) filter (where body is not null or headers <> '{}' or trace_context is not null)
                   from store.webhook_inbox
                  group by event_id",
                &[],
            )
            .await?;
        let telling = |r: &Row| if r.get(3) { r.get(4) } else { 0_i64 };
        let found = rows
            .iter()
            .map(|r| (r.get(0), (r.get(1), r.get(2), telling(r))))
            .collect();
        let jobs = self.model.jobs.iter();
        let expected = jobs.map(|job| (job.event, (job.deliveries, job.deliveries_erased, 0_i64)));
        let expected: BTreeMap<Uuid, (i64, i64, i64)> = expected.collect();
        same("deliveries (all, erased, telling) of event", &found, &expected)
    }
}
