//! `relayforge-perf` as `./dev up` calls it: setup that may be repeated, the table, and exit codes that tell the truth.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Output, Stdio};

use tokio::process::Command;

use crate::world::{MASTER_KEY, World};

async fn perf(world: &World, arguments: &[&str]) -> Output {
    let url = if world.has("api") {
        world.service("api").url()
    } else {
        "http://127.0.0.1:9".to_owned()
    };
    Command::new(env!("CARGO_BIN_EXE_relayforge-perf"))
        .args(arguments)
        .arg("--state")
        .arg(world.folder().join("demo.json"))
        .env_clear()
        .env("DATABASE__URL", world.db.url("owner").expose())
        .env("RELAYFORGE_URL", url)
        .env("SECRETS__MASTER_KEY", MASTER_KEY)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn set_up(world: &World) -> String {
    let output = perf(world, &["demo", "--setup"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[tokio::test]
async fn setup_may_be_repeated_and_survives_the_loss_of_its_state() {
    let world = World::new().await;
    let state = world.folder().join("demo.json");
    let first = set_up(&world).await;
    assert_eq!(
        std::fs::metadata(&state).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let names: Vec<&str> = first
        .lines()
        .map(|line| line.split_once('=').unwrap().0)
        .collect();
    assert_eq!(
        names,
        [
            "DEMO_TENANT",
            "DEMO_TENANT_ID",
            "DEMO_GENERIC_SECRET",
            "DEMO_GITHUB_SECRET",
            "DEMO_STRIPE_SECRET",
            "RELAYFORGE_ADMIN_KEY",
            "RELAYFORGE_OPERATOR_KEY",
            "RELAYFORGE_VIEWER_KEY",
        ]
    );
    for line in first.lines() {
        let value = line.split_once('=').unwrap().1;
        assert!(
            value.starts_with('\'') && value.ends_with('\'') && value.matches('\'').count() == 2,
            "{line}"
        );
    }
    assert!(
        first.contains(&format!("DEMO_TENANT_ID='{}'", world.tenant_id)),
        "{first}"
    );

    const SECRETS: &str = "select count(*) from store.tenant_provider_secrets";
    const KEYS: &str = "select count(*) from store.admin_api_keys";
    assert_eq!((world.count(SECRETS).await, world.count(KEYS).await), (4, 3));
    assert_eq!(set_up(&world).await, first);
    assert_eq!(
        (world.count(SECRETS).await, world.count(KEYS).await),
        (4, 3),
        "nothing was added"
    );

    std::fs::remove_file(&state).unwrap();
    let second = set_up(&world).await;
    let differing = first
        .lines()
        .zip(second.lines())
        .filter(|(one, other)| one != other)
        .count();
    assert_eq!(
        differing, 6,
        "the tenant stays, its secrets and keys are new:\n{first}{second}"
    );
    assert_eq!(
        (world.count(SECRETS).await, world.count(KEYS).await),
        (8, 6),
        "versions and keys were added"
    );

    std::fs::write(&state, "{").unwrap();
    let output = perf(&world, &["demo", "--setup"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("remove it"),
        "{}",
        text(&output.stderr)
    );
}

#[tokio::test]
async fn the_demo_is_right_when_all_runs_and_says_what_is_wrong_when_not() {
    let mut world = World::started().await;
    for _ in 0..2 {
        let output = perf(&world, &["demo", "--send"]).await;
        let table = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{table}{}", text(&output.stderr));
        println!("{table}");
        assert!(table.lines().all(|line| line.chars().count() <= 120), "{table}");
        let rows: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split("  ").filter(|cell| !cell.is_empty()).collect())
            .collect();
        let row = |what: &str| rows.iter().find(|row| row.first() == Some(&what)).unwrap();
        let (first, again) = (row("generic order.created"), row("the generic one again"));
        assert_eq!(first[2..4], again[2..4], "the duplicate has the first ids");
        assert_eq!((first[4].trim(), again[4].trim()), ("no", "yes"));
        assert_eq!(row("a forged github push")[1].trim(), "401");
        assert_eq!(
            table.matches("succeeded").count(),
            4,
            "three rows and the verdict:\n{table}"
        );
    }
    let stored = "select count(*) from store.webhook_inbox";
    assert_eq!(
        world.count(stored).await,
        2 * 4,
        "fresh ids each time, and no forgery"
    );

    let load = perf(
        &world,
        &[
            "ingest",
            "--connections",
            "4",
            "--requests",
            "60",
            "--warmup",
            "0",
            "--rate",
            "500",
        ],
    )
    .await;
    println!("{}", text(&load.stdout));
    assert_eq!(
        load.status.code(),
        Some(0),
        "{}{}",
        text(&load.stdout),
        text(&load.stderr)
    );
    assert_eq!(world.count(stored).await, 2 * 4 + 60);

    // A tenant that is refused stands for whatever may be wrong.
    world
        .sql
        .batch_execute("update store.tenants set status = 'suspended' where slug = 'demo'")
        .await
        .unwrap();
    let wrong = perf(&world, &["demo", "--send"]).await;
    assert_eq!(wrong.status.code(), Some(1));
    let table = text(&wrong.stdout);
    assert!(
        table.contains("WRONG: github push: answered 403 instead of 202"),
        "{table}"
    );

    world.service_mut("api").kill().await;
    let wrong = perf(&world, &["demo", "--send"]).await;
    assert_eq!(wrong.status.code(), Some(1));
    let table = text(&wrong.stdout);
    assert!(table.contains("WRONG: stripe invoice.paid: no answer"), "{table}");
}
