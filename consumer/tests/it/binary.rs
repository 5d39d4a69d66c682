//! The process itself: its arguments, its log, its exit codes, and its sudden death.

use std::process::{Output, Stdio};

use consumer::outcome::Outcome;
use consumer::registry::{JobContext, JobFuture, JobHandler, Registry};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::world::{Consumer, World, in_time};

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relayforge-consumer"));
    // Away from any `.env`, and from what this shell has set.
    command
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .env_clear()
        .kill_on_drop(true);
    command
}

fn with_settings(world: &World) -> Command {
    let mut command = command();
    command
        .env("APP_ENV", "development")
        .env("DATABASE__URL", world.db.url("relayforge_consumer").expose())
        .env("AMQP__URL", world.broker.amqp_url())
        .env("AMQP__PREFIX", world.broker.prefix())
        .env("CONSUMER__LISTEN", "127.0.0.1:0")
        .stdout(Stdio::piped());
    command
}

fn start(mut command: Command) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

async fn output(command: &mut Command) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = in_time("it exits", command.output()).await.unwrap();
    (
        status.code(),
        format!(
            "{}{}",
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr)
        ),
    )
}

#[tokio::test]
async fn a_configuration_is_checked_without_connecting() {
    let settings = [
        ("DATABASE__URL", "postgres://u:hunter2@nowhere/x"),
        ("AMQP__URL", "amqp://u:hunter2@nowhere"),
    ];
    let (code, text) = output(command().envs(settings).arg("--check-config")).await;
    assert_eq!((code, text.as_str()), (Some(0), "configuration ok\n"));
    for (variable, value) in [
        ("CONSUMER__SLOTS", "none"),
        ("CONSUMER__BACKOFF_CAP_MS", "1"),
        ("AMQP__URL", "http://u:hunter2@nowhere"),
        ("DATABASE__URL", "hunter2"),
    ] {
        let (code, text) = output(
            command()
                .envs(settings)
                .env(variable, value)
                .arg("--check-config"),
        )
        .await;
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(variable) && !text.contains("hunter2"), "{text}");
    }
    let (code, text) = output(command().arg("--help")).await;
    assert_eq!(code, Some(0));
    assert!(
        text.contains("CONSUMER__POISON_STARTS") && text.contains("[default: 30000]"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_of_a_run_names_it_none_shows_the_payload_and_sigterm_ends_it_well() {
    let world = World::new().await;
    let mut command = with_settings(&world);
    let (mut child, mut lines) = start(std::mem::replace(&mut command, self::command()));
    let job_id = world
        .sent_job("chaos", json!({ "permanent": true, "sleep_ms": 7 }))
        .await;
    let logged = world.sent_job("log", json!({ "card": "4242-secret" })).await;
    world.until(logged, "succeeded").await;
    world.until(job_id, "dead_lettered").await;
    let pid = child.id().unwrap().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .await
            .unwrap()
            .success()
    );

    let mut of_run = Vec::new();
    while let Some(line) = in_time("its log ends", lines.next_line()).await.unwrap() {
        assert!(!line.contains("4242") && !line.contains("amqp://"), "{line}");
        let line: Value = serde_json::from_str(&line).unwrap();
        if line["job.id"] == logged.to_string() {
            of_run.push(line);
        }
    }
    assert!(in_time("it exits", child.wait()).await.unwrap().success());
    let messages: Vec<&str> = of_run.iter().map(message).collect();
    assert_eq!(messages, ["event received", "job succeeded"], "{of_run:?}");
    for line in &of_run {
        assert_eq!(line["correlation_id"], "corr-1", "{line}");
        assert_eq!(
            line["tenant.id"], "00000000-0000-0000-0000-000000000000",
            "{line}"
        );
        assert_eq!(line["attempt"], 1, "{line}");
        assert_eq!(line["job.kind"], "log", "{line}");
    }
    assert_eq!(of_run[0]["event.type"], "thing.happened");
    assert!(of_run[1]["duration_ms"].is_u64(), "{}", of_run[1]);
}

/// Without the bunyan formatter's prefix, which names the span.
fn message(line: &Value) -> &str {
    line["msg"].as_str().unwrap().trim_start_matches("[JOB - EVENT] ")
}

/// Stands in for `chaos` in this process, which is to live.
struct Tame;

impl JobHandler for Tame {
    fn kind(&self) -> &'static str {
        "chaos"
    }

    fn run(&self, _: JobContext) -> JobFuture<'_> {
        Box::pin(async { Outcome::Succeeded })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_dies_in_a_job_loses_nothing() {
    let mut world = World::new().await;
    world.carry();
    let mut command = with_settings(&world);
    command.env("CONSUMER__LEASE_MS", "1000").stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    let job_id = world.job("chaos", json!({ "exit": 7 })).await;
    let status = in_time("the job ends its process", child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(7));
    assert_eq!(world.overview(job_id).await.status, "processing");

    let config = world.config(&["--CONSUMER__LEASE_MS=1000"]);
    let _rescuer = Consumer::start(config, Registry::default().with(Tame)).await;
    assert_eq!(world.until(job_id, "succeeded").await.attempts, 2);
}
