use std::fs;
use std::path::PathBuf;

use clap::Parser as _;
use serde_json::{Value, json};

use super::*;
use crate::config::{Cli, Command};

/// A folder of results, gone when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir()
            .join(format!("relayforge-summary-{name}-{}", std::process::id()))
            .join("2026-01-02");
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, file: &str, text: &str) {
        let file = self.0.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    /// The page, and whether all is right.
    fn summary(&self) -> (String, bool) {
        let words = [
            "relayforge-perf",
            "summary",
            "--date=2026-01-02",
            "--commit=abc and changes",
            "--results",
        ];
        let cli = Cli::parse_from(words.into_iter().chain([self.0.to_str().unwrap()]));
        let Command::Summary(arguments) = cli.command else {
            panic!("{:?}", cli.command)
        };
        let summary = read(&arguments).unwrap();
        (summary.to_string(), summary.is_right())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(self.0.parent().unwrap()).unwrap();
    }
}

fn ingest(tenants: u32, accepted_a_second: f64, p99: f64, missing: u32) -> Value {
    let latencies = json!({"count": 9, "p50": 1.0, "p90": 2.0, "p99": p99, "p999": 11.0, "max": 12.5});
    let rows = json!({"accepted": 9, "stored": 9, "jobs": 9, "missing": missing, "doubled": 0});
    let usage = json!([
        {"process": "api", "cores": 0.5, "most_memory": 20 << 20},
        {"process": "PostgreSQL", "cores": 1.0, "most_memory": 1 << 30},
    ]);
    json!({
        "connections": 64, "rate": null, "source": "generic", "body_bytes": 600, "tenants": tenants, "seconds": 60.0,
        "accepted_a_second": accepted_a_second, "latencies": latencies, "error_rate": 0.0, "answers": {},
        "usage": usage, "by_second": [1], "rows": rows, "wrong": 0,
    })
}

/// The cells of the goals' lines that begin with a row's name.
fn verdicts(page: &str, row: &str) -> Vec<Vec<String>> {
    let goals = page
        .split("## Goals")
        .nth(1)
        .unwrap()
        .split("\n## ")
        .next()
        .unwrap();
    let cells = |line: &str| {
        line.split('|')
            .map(|cell| cell.trim().to_owned())
            .collect::<Vec<_>>()
    };
    let lines = goals
        .lines()
        .map(cells)
        .filter(|cells| cells.len() > 5 && cells[1] == row);
    lines.map(|cells| cells[4..=5].to_vec()).collect()
}

#[test]
fn a_goal_is_met_or_missed_and_what_nobody_measured_is_neither() {
    let folder = Folder::new("met");
    folder.write("ingest-64.json", &ingest(1, 20_000.0, 9.9, 0).to_string());
    folder.write("ingest-64/ingest-latency.svg", "<svg/>");
    folder.write("growth.skipped", "too little room\n");
    let (page, is_right) = folder.summary();
    assert_eq!(
        verdicts(&page, "ingest-64"),
        [["20000/s", "met"], ["9.9 ms", "met"]]
    );
    assert_eq!(verdicts(&page, "memory"), [["20.0 MiB", "met"]]);
    assert_eq!(verdicts(&page, "drain"), [["-", "not measured"]]);
    assert_eq!(verdicts(&page, "growth"), [["-", "skipped"]]);
    assert!(is_right, "{page}");
    for seen in [
        "abc and changes",
        "- growth skipped: too little room\n",
        "- [ingest-64/ingest-latency](2026-01-02/ingest-64/ingest-latency.svg)\n",
        " 25.0 |", // half a core for 20,000 a second
        "1.50 of",
    ] {
        assert!(page.contains(seen), "{seen}: {page}");
    }
    assert!(!page.contains(folder.0.to_str().unwrap()), "{page}");

    folder.write("ingest-64.json", &ingest(1, 20_000.0, 10.0, 0).to_string());
    let (page, is_right) = folder.summary();
    assert_eq!(
        verdicts(&page, "ingest-64"),
        [["20000/s", "met"], ["10.0 ms", "MISSED"]]
    );
    assert!(!is_right);
}

#[test]
fn turns_of_one_tenant_are_held_against_those_of_sixteen() {
    let folder = Folder::new("tenants");
    let speeds = [(1, 900.0), (16, 1_000.0), (1, 980.0), (16, 1_000.0)];
    for (file, (tenants, speed)) in TENANTS.iter().zip(speeds).skip(1) {
        folder.write(
            &format!("{file}.json"),
            &ingest(tenants, speed, 1.0, 0).to_string(),
        );
    }
    assert_eq!(verdicts(&folder.summary().0, "tenants"), [["-", "not measured"]]);
    let first = ingest(1, speeds[0].1, 1.0, 0);
    folder.write(&format!("{}.json", TENANTS[0]), &first.to_string());
    assert_eq!(verdicts(&folder.summary().0, "tenants"), [["0.94", "met"]]);
}

#[test]
fn what_failed_what_is_broken_and_what_lost_a_webhook_meets_no_goal_and_says_why() {
    let folder = Folder::new("failed");
    folder.write("drain.failed", "relayforge-perf ended with exit code 101");
    let (page, is_right) = folder.summary();
    assert_eq!(verdicts(&page, "drain"), [["-", "FAILED"]]);
    assert!(page.contains("- drain FAILED: relayforge-perf ended with exit code 101\n"));
    assert!(!is_right);

    let folder = Folder::new("broken");
    folder.write("hot-path.json", "{\"bodies\": [");
    let (page, is_right) = folder.summary();
    assert_eq!(verdicts(&page, "hot-path"), [["-", "FAILED"]]);
    assert!(page.contains("- hot-path FAILED: hot-path.json: EOF"), "{page}");
    assert!(!is_right);

    let folder = Folder::new("lost");
    folder.write("duplicates.json", &ingest(1, 30_000.0, 1.0, 1).to_string());
    let (page, is_right) = folder.summary();
    assert!(page.contains("- duplicates FAILED: a webhook was lost"), "{page}");
    assert!(!is_right, "a row without a goal fails all the same");
}

#[test]
fn what_the_commands_write_is_what_is_read() {
    let folder = Folder::new("both");
    let rate = crate::end_to_end::Rate {
        a_second: 5_000,
        seconds: 60.0,
        accepted_a_second: 4_999.0,
        growth_a_second: Some(70.0),
        ..Default::default()
    };
    let report = json!({"goal_ms": 1, "offset": {"ahead_us": 0, "asked_for_us": 1}, "rates": [rate]});
    folder.write("both.json", &report.to_string());
    let (page, is_right) = folder.summary();
    assert_eq!(verdicts(&page, "both"), [["4999/s", "met"], ["70.0/s", "MISSED"]]);
    assert!(!is_right);
}
