//! `relayforge-perf`'s measurements against running services: that they measure, not how fast this machine is.

use clap::Parser as _;
use perf::config::{Cli, Command, DrainArgs, EndToEndArgs, GrowthArgs, IdleArgs, IngestArgs, Pids};
use perf::{drain, end_to_end, growth, idle, load};

use crate::world::{MASTER_KEY, World};

const RATES: [u32; 2] = [20, 40];

/// A goal that only a machine which stands still would miss.
const GOAL_MS: &str = "30000";

/// A command line against running services.
fn command(world: &World, words: &[&str]) -> Command {
    let pid = |name| world.service(name).pid().to_string();
    let flags = [
        ("RELAYFORGE_URL", world.service("api").url()),
        ("DATABASE__URL", world.db.url("owner").expose().to_owned()),
        ("SECRETS__MASTER_KEY", MASTER_KEY.to_owned()),
        ("state", world.folder().join("demo.json").display().to_string()),
        ("API_PID", pid("api")),
        ("RELAY_PID", pid("relay")),
        ("CONSUMER_PID", pid("consumer")),
    ];
    let flags = flags.map(|(name, value)| format!("--{name}={value}"));
    let words = ["relayforge-perf"].into_iter().chain(words.iter().copied());
    Cli::parse_from(words.map(str::to_owned).chain(flags)).command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_rate_has_a_row_with_every_job() {
    let world = World::started().await;
    let words = [
        "end-to-end",
        "--rate=20,40",
        "--requests=20",
        "--warmup=0",
        "--connections=4",
        "--goal-ms",
        GOAL_MS,
    ];
    let Command::EndToEnd(arguments @ EndToEndArgs { .. }) = command(&world, &words) else {
        panic!("another command")
    };
    let report = end_to_end::run(&arguments).await.unwrap();
    assert!(report.is_right(), "{report}");
    report.draw(world.folder()).unwrap();
    for picture in ["end-to-end-latency.svg", "end-to-end-backlog.svg"] {
        let text = std::fs::read_to_string(world.folder().join(picture)).unwrap();
        assert!(
            text.contains("<svg") && text.contains("40/s"),
            "{picture}: {text}"
        );
    }
    for (rate, asked) in report.rates.iter().zip(RATES) {
        assert_eq!(
            (rate.a_second, rate.accepted, rate.missing),
            (asked, 20, 0),
            "{report}"
        );
        assert!(rate.latencies.p50.is_some_and(|median| median > 0.0), "{report}");
        assert!(
            rate.usage.iter().any(|usage| usage.process == "consumer"),
            "{report}"
        );
    }
    let succeeded = "select count(*) from store.jobs where outcome = 'succeeded'";
    assert_eq!(world.count(succeeded).await, 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_is_counted_checked_and_a_row_that_vanishes_is_missed() {
    let world = World::started().await;
    for source in ["generic", "github", "stripe"] {
        let from = format!("--source={source}");
        let words = [
            "ingest",
            "--requests=100",
            "--warmup=0",
            "--connections=4",
            "--duplicates=20",
            "--tenants=3",
            &from,
        ];
        let Command::Ingest(arguments @ IngestArgs { .. }) = command(&world, &words) else {
            panic!("another command")
        };
        let report = load::ingest(&arguments).await.unwrap();
        assert!(report.is_right(), "{report}");
        assert_eq!(report.answers.values().sum::<u32>(), 100, "{report}");
        // What Stripe signed once more in the same second is a replay.
        let again = ["202 duplicate", "409 replay"].map(|answer| report.answers.get(answer));
        let again: u32 = again.into_iter().flatten().sum();
        assert!((10..=20).contains(&again), "{report}");
        let new = usize::try_from(100 - again).unwrap();
        assert_eq!(
            (report.rows.accepted, report.rows.stored, report.rows.jobs),
            (new, new, new),
            "{report}"
        );
        assert_eq!(
            (report.latencies.count, report.body_bytes),
            (100, 600),
            "{report}"
        );
        assert!(
            report
                .usage
                .iter()
                .any(|usage| usage.process == "api" && usage.most_memory > 1 << 20),
            "{report}"
        );
    }

    // A database that forgets what it has promised.
    world
        .sql
        .batch_execute(
            "create function store.forget() returns trigger language plpgsql as $$ begin
               return case when new.provider_event_id like '%7' then null else new end; end $$;
             create trigger forget before insert on store.webhook_inbox for each row execute function store.forget()",
        )
        .await
        .unwrap();
    let words = ["ingest", "--requests=50", "--warmup=0", "--connections=2"];
    let Command::Ingest(arguments) = command(&world, &words) else {
        panic!("another command")
    };
    let report = load::ingest(&arguments).await.unwrap();
    assert_eq!(report.rows.missing, 5, "{report}");
    assert!(!report.is_right());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_is_made_with_the_relay_frozen_and_goes_when_it_wakes() {
    let world = World::started().await;
    let words = ["drain", "--jobs=150", "--connections=8", "--within=120"];
    let Command::Drain(arguments @ DrainArgs { .. }) = command(&world, &words) else {
        panic!("another command")
    };
    let report = drain::run(&arguments).await.unwrap();
    assert!(report.is_right(), "{report}");
    assert_eq!((report.jobs, report.rows.jobs), (150, 150), "{report}");
    assert_eq!(
        report.backlog.first().unwrap().open,
        150,
        "the relay was frozen: {report}"
    );
}

/// Small sizes: that it measures, and cleans up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn growth_is_measured_in_databases_of_its_own() {
    let world = World::started().await;
    let words = [
        "growth",
        "--sizes=0,2000",
        "--turns=2",
        "--duration=1",
        "--warmup=0",
        "--connections=4",
    ];
    let api = format!("--api={}", crate::binaries::binary("api").display());
    let database = format!("--database-url={}", world.db.url("owner").expose());
    let key = format!("--SECRETS__MASTER_KEY={MASTER_KEY}");
    let line = ["relayforge-perf"].into_iter().chain(words);
    let line = line.chain([api.as_str(), database.as_str(), key.as_str()]);
    let Command::Growth(arguments @ GrowthArgs { .. }) = Cli::parse_from(line).command else {
        panic!("another command")
    };
    let report = growth::run(&arguments).await.unwrap();
    for (size, jobs) in report.sizes.iter().zip([0, 2000]) {
        assert_eq!(
            (size.jobs, size.broken, size.turns.len()),
            (jobs, 0, 2),
            "{report}"
        );
        assert!(size.accepted_a_second > 0.0, "{report}");
    }
    let left = "select count(*) from pg_database where datname like 'relayforge_perf_growth_%'";
    assert_eq!(world.count(left).await, 0);
}

/// Test servers count no statements; one that was given by its URL may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idleness_is_measured_or_says_what_the_server_lacks() {
    let world = World::started().await;
    let pid = |name| world.service(name).pid().to_string();
    let arguments = IdleArgs {
        seconds: 3,
        pids: Pids {
            api_pid: pid("api"),
            relay_pid: pid("relay"),
            consumer_pid: pid("consumer"),
            ..Pids::default()
        },
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
        pids: Pids {
            api_pid: pid("relay"),
            ..arguments.pids.clone()
        },
        ..arguments
    };
    let error = format!("{:#}", idle::run(&swapped).await.unwrap_err());
    assert!(
        error.contains("API_PID") && error.contains("not relayforge-api"),
        "{error}"
    );
}
