//! The real functions, called as the roles that call them, at chosen seconds of a day: what the views show of it can
//! then be compared row by row, times included.

use chrono::{DateTime, Days, NaiveTime, SubsecRound as _, TimeDelta, Utc};
use serde_json::json;
use sql::testing::TestDb;
use sql::{GenericClient as _, Object, Pool};
use uuid::Uuid;

use crate::support::Hook;

/// What is put in the place of `:day` in a query.
const DAY: &str = ":day";

/// A database seen by its four roles. Times are in seconds from the start of its day.
pub(crate) struct Stage {
    day: DateTime<Utc>,
    pub(crate) api: Object,
    pub(crate) relay: Object,
    pub(crate) consumer: Object,
    pub(crate) dba: Object,
}

impl Stage {
    /// Of this UTC day.
    pub(crate) async fn of(db: &TestDb) -> Self {
        Self::on(|role| db.pool(role)).await
    }

    /// Of the day before: its partitions are there, and all of it is past.
    pub(crate) async fn of_yesterday(db: &TestDb) -> Self {
        Self::of(db).await.a_day_earlier()
    }

    pub(crate) fn a_day_earlier(mut self) -> Self {
        self.day = self.day - Days::new(1);
        self
    }

    /// With times from now on, for views that compare with the clock.
    pub(crate) async fn from_now(db: &TestDb) -> Self {
        let mut stage = Self::of(db).await;
        stage.day = Utc::now().trunc_subsecs(0);
        stage
    }

    pub(crate) async fn on(pool: impl Fn(&str) -> Pool) -> Self {
        let connect = async |role| pool(role).get().await.unwrap();
        Self {
            day: Utc::now().with_time(NaiveTime::MIN).unwrap(),
            api: connect("relayforge_api").await,
            relay: connect("relayforge_relay").await,
            consumer: connect("relayforge_consumer").await,
            dba: connect("relayforge_dba").await,
        }
    }

    pub(crate) fn at(&self, second: i64) -> DateTime<Utc> {
        self.day + TimeDelta::seconds(second)
    }

    /// Rows of a query on the views, as PostgreSQL writes rows; `:day` is the start of the day.
    pub(crate) async fn rows(&self, query: &str) -> Vec<String> {
        let day = format!("timestamptz '{}'", self.day.to_rfc3339());
        self.dba
            .query(
                &format!("select q::text from ({}) q", query.replace(DAY, &day)),
                &[],
            )
            .await
            .unwrap_or_else(|error| panic!("{query}: {error:?}"))
            .iter()
            .map(|row| row.get(0))
            .collect()
    }

    /// One webhook; answers with the outcome, the event and its first job.
    pub(crate) async fn deliver(&self, second: i64, hook: &Hook) -> (String, Uuid, Uuid) {
        let row = self
            .api
            .query_one(
                "select outcome, event_id, job_id
                   from relayforge.ingest_webhooks(
                          array[$1::uuid], array[$2::text], array[$3::text], array['order.created'], array[$4::bytea],
                          array[$5::jsonb], array[to_timestamp($6::bigint)], array[null::uuid], array['test'],
                          array[null::jsonb], 1000, '7 days', '1 day', $7)",
                &[
                    &hook.tenant,
                    &hook.source,
                    &hook.id,
                    &hook.body,
                    &json!({ "content-type": "application/json" }),
                    &hook.signed_at,
                    &self.at(second),
                ],
            )
            .await
            .unwrap();
        (row.get(0), row.get(1), row.get(2))
    }

    /// A new event, which must be accepted: the event and its job.
    pub(crate) async fn accept(&self, second: i64, hook: &Hook) -> (Uuid, Uuid) {
        let (outcome, event, job) = self.deliver(second, hook).await;
        assert_eq!(outcome, "accepted");
        (event, job)
    }

    /// Claims what is due for a target and has the broker confirm it, or, with an error, refuse it.
    pub(crate) async fn publish(&self, second: i64, target: &str, refusal: Option<&str>) {
        self.relay
            .query(
                "select relayforge.settle_outbox(
                          coalesce(array_agg(c.id) filter (where $2::text is null), '{}'),
                          coalesce(array_agg(c.id) filter (where $2 is not null), '{}'),
                          coalesce(array_agg($2) filter (where $2 is not null), '{}'),
                          '1 second', '1 minute', $3)
                   from relayforge.claim_outbox($1, 500, p_now => $3) c",
                &[&target, &refusal, &self.at(second)],
            )
            .await
            .unwrap();
    }

    /// Starts an attempt, with a lease of 30 seconds, and answers with the run's id.
    pub(crate) async fn start(&self, second: i64, job: Uuid, attempt: i32) -> Uuid {
        let row = self
            .consumer
            .query_one(
                "select outcome, run_id from relayforge.start_jobs(array[$1::uuid], array[$2::integer], '30 s', 5, $3)",
                &[&job, &attempt, &self.at(second)],
            )
            .await
            .unwrap();
        assert_eq!(row.get::<_, String>(0), "started");
        row.get(1)
    }

    pub(crate) async fn complete(&self, second: i64, job: Uuid, run: Uuid) {
        self.consumer
            .query(
                "call relayforge.complete_jobs(array[$1::uuid], array[$2::uuid], null, $3)",
                &[&job, &run, &self.at(second)],
            )
            .await
            .unwrap();
    }

    /// Fails a run of at most three; a retry is due 60 seconds later.
    pub(crate) async fn fail(&self, second: i64, job: Uuid, run: Uuid, retryable: bool, error: &str) {
        self.consumer
            .query(
                "call relayforge.fail_jobs(array[$1::uuid], array[$2::uuid], array[$3::text], array[$4::boolean],
                                           array[60::float8], 3, '1 s', '1 min', null, null, null, $5)",
                &[&job, &run, &error, &retryable, &self.at(second)],
            )
            .await
            .unwrap();
    }

    pub(crate) async fn sweep(&self, second: i64, max_starts: i32) {
        self.consumer
            .query(
                "select relayforge.sweep_leases(1000, $1, $2)",
                &[&max_starts, &self.at(second)],
            )
            .await
            .unwrap();
    }

    /// A verb of the DBA's on one job, by "ana"; answers with the outcome.
    pub(crate) async fn verb(&self, second: i64, verb: &str, job: Uuid, reason: &str) -> String {
        self.dba
            .query_one(
                &format!("select outcome from relayforge.{verb}(array[$1::uuid], $2, 'ana', $3)"),
                &[&job, &reason, &self.at(second)],
            )
            .await
            .unwrap()
            .get(0)
    }

    pub(crate) async fn erase(&self, second: i64, event: Uuid) -> i64 {
        self.dba
            .query_one(
                "select relayforge.erase_event($1, 'asked to', 'ana', $2)",
                &[&event, &self.at(second)],
            )
            .await
            .unwrap()
            .get(0)
    }
}
