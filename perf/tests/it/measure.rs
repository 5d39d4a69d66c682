//! `relayforge-perf end-to-end` and `idle` against running services: that they measure, not how fast this machine is.

use perf::config::{EndToEndArgs, IdleArgs, Target};
use perf::{end_to_end, idle};

use crate::world::{MASTER_KEY, World};

const RATES: [u32; 2] = [20, 40];
const REQUESTS: u32 = 20;

/// A goal that only a machine which stands still would miss.
const GOAL_MS: u32 = 30_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_rate_has_a_row_with_every_job() {
    let world = World::started().await;
    let arguments = EndToEndArgs {
        rates: RATES.to_vec(),
        requests: REQUESTS,
        connections: 4,
        goal_ms: GOAL_MS,
        target: Target {
            url: world.service("api").url(),
            database: world.db.config("owner"),
            master_key: MASTER_KEY.parse().unwrap(),
            state: world.folder().join("demo.json"),
        },
    };
    let report = end_to_end::run(&arguments).await.unwrap();
    assert!(report.is_right(), "{report}");
    let text = report.to_string();
    for rate in RATES {
        let row = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        let row = row
            .into_iter()
            .find(|cells| cells.first() == Some(&rate.to_string().as_str()));
        let row = row.unwrap_or_else(|| panic!("no row for {rate}: {text}"));
        assert_eq!((row[1], row[7], row[8]), ("20", "0", "0"), "{text}");
        let median: f64 = row[2].parse().unwrap();
        assert!(median > 0.0, "{text}");
    }
    let succeeded = "select count(*) from store.jobs where outcome = 'succeeded'";
    assert_eq!(world.count(succeeded).await, i64::from(REQUESTS * 2));
}

/// Test servers count no statements; one that was given by its URL may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idleness_is_measured_or_says_what_the_server_lacks() {
    let world = World::started().await;
    let pid = |name| world.service(name).pid();
    let arguments = IdleArgs {
        seconds: 3,
        api_pid: pid("api"),
        relay_pid: pid("relay"),
        consumer_pid: pid("consumer"),
        postgres_pid: String::new(),
        rabbitmq_pid: String::new(),
        database: world.db.config("owner"),
    };
    match idle::run(&arguments).await {
        Ok(report) => {
            let text = report.to_string();
            for seen in [
                "api ",
                "relay ",
                "consumer ",
                "relayforge.sweep_leases(",
                "relayforge.relay_sleep(",
            ] {
                assert!(text.contains(seen), "{seen}: {text}");
            }
        }
        Err(error) => assert!(
            format!("{error:#}").contains("shared_preload_libraries"),
            "{error:#}"
        ),
    }
    let swapped = IdleArgs {
        api_pid: pid("relay"),
        ..arguments
    };
    let error = format!("{:#}", idle::run(&swapped).await.unwrap_err());
    assert!(
        error.contains("API_PID") && error.contains("not relayforge-api"),
        "{error}"
    );
}
