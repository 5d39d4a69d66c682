//! What the services cost while nobody asks anything of them: CPU time, and queries to the database.
//!
//! Queries are counted by the server itself (`pg_stat_statements`), so that nothing a service sends is overlooked; what
//! its functions do inside of them is not sent by anybody. CPU time is the kernel's, in `processes.rs`.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use sql::DbError;
use sql::activity::{StatementCounts, count_statements, statement_counts};

use crate::config::IdleArgs;
use crate::processes::{find_all, times};
use crate::report::{Align, Table};

/// Shares of a core, in per cent, that the three services stay under together.
const CPU_GOAL: f64 = 1.0;

/// Queries a second that the three services stay under together.
const QUERIES_GOAL: f64 = 5.0;

/// Wait before the window: what came last is done then, and the relay sleeps.
const SETTLE: Duration = Duration::from_secs(5);

/// Characters of a statement that the table shows.
const SHOWN_CHARS: usize = 88;

/// A statement whose presence says that somebody sent webhooks: what was measured is not idleness.
const INGEST: &str = "relayforge.ingest_webhooks(";

/// The services, and the roles that they connect as.
const SERVICES: [(&str, &str); 3] = [
    ("api", "relayforge_api"),
    ("relay", "relayforge_relay"),
    ("consumer", "relayforge_consumer"),
];

/// What a window without work has shown.
#[derive(Debug)]
pub struct Report {
    window: Duration,
    services: Vec<Usage>,
    /// For information: they serve others too.
    servers: Vec<Usage>,
    statements: Vec<Sent>,
    debug_build: bool,
}

/// What one process has used, in the window.
#[derive(Debug)]
struct Usage {
    name: &'static str,
    /// Per cent of a core.
    cpu: f64,
    queries: i64,
}

/// How often a statement was sent, in the window.
#[derive(Debug, PartialEq, Eq)]
struct Sent {
    role: String,
    statement: String,
    calls: i64,
}

/// Measures for as long as `--seconds` says.
///
/// # Errors
/// If a process is not there or ends meanwhile, or statements are not counted.
pub async fn run(arguments: &IdleArgs) -> anyhow::Result<Report> {
    let processes = find_all(&arguments.pids)?;
    for (name, _) in SERVICES {
        let is_known = processes.iter().any(|process| process.name == name);
        anyhow::ensure!(is_known, "{}_PID is not set", name.to_uppercase());
    }
    let pool = sql::pool::connect(&arguments.database, "relayforge-perf")?;
    let client = pool.get().await.map_err(DbError::from)?;
    count_statements(&client).await?;
    let roles = SERVICES.map(|(_, role)| role);
    tokio::time::sleep(SETTLE).await;

    let began = Instant::now();
    let before = (times(&processes)?, statement_counts(&client, &roles).await?);
    tokio::time::sleep(Duration::from_secs(arguments.seconds.into())).await;
    let after = (times(&processes)?, statement_counts(&client, &roles).await?);
    let window = began.elapsed();

    anyhow::ensure!(
        before.1.generation == after.1.generation,
        "the server has forgotten counts meanwhile: pg_stat_statements was reset, or pg_stat_statements.max is too low"
    );
    let statements = sent(&before.1, &after.1);
    let usage = |(name, time): (&'static str, Duration)| {
        let role = SERVICES.iter().find(|(service, _)| *service == name);
        let theirs = |sent: &&Sent| role.is_some_and(|(_, role)| sent.role == *role);
        Usage {
            name,
            cpu: time.as_secs_f64() / window.as_secs_f64() * 100.0,
            queries: statements.iter().filter(theirs).map(|sent| sent.calls).sum(),
        }
    };
    let names = processes.iter().map(|process| process.name);
    let used = before
        .0
        .iter()
        .zip(&after.0)
        .map(|(before, after)| after.saturating_sub(*before));
    let is_service = |usage: &Usage| SERVICES.iter().any(|(name, _)| *name == usage.name);
    let (services, servers) = names.zip(used).map(usage).partition(is_service);
    Ok(Report {
        window,
        services,
        servers,
        statements,
        debug_build: processes.iter().any(|process| process.is_debug_build()),
    })
}

/// What was sent between two readings, the most frequent first.
fn sent(before: &StatementCounts, after: &StatementCounts) -> Vec<Sent> {
    let earlier: HashMap<(&str, &str), i64> = before
        .counts
        .iter()
        .map(|count| ((count.role.as_str(), count.statement.as_str()), count.calls))
        .collect();
    let mut sent: Vec<Sent> = after
        .counts
        .iter()
        .map(|count| Sent {
            calls: count.calls
                - earlier
                    .get(&(count.role.as_str(), count.statement.as_str()))
                    .unwrap_or(&0),
            role: count.role.clone(),
            statement: count.statement.clone(),
        })
        .filter(|sent| sent.calls > 0)
        .collect();
    sent.sort_by(|one, other| {
        other
            .calls
            .cmp(&one.calls)
            .then_with(|| one.statement.cmp(&other.statement))
    });
    sent
}

impl Report {
    /// Whether it was idle, and both goals were reached.
    pub fn is_right(&self) -> bool {
        self.was_idle() && self.cpu() < CPU_GOAL && self.queries_a_second() < QUERIES_GOAL
    }

    fn was_idle(&self) -> bool {
        !self.statements.iter().any(|sent| sent.statement.contains(INGEST))
    }

    fn cpu(&self) -> f64 {
        self.services.iter().map(|usage| usage.cpu).sum()
    }

    fn queries_a_second(&self) -> f64 {
        self.a_second(self.services.iter().map(|usage| usage.queries).sum())
    }

    fn a_second(&self, calls: i64) -> f64 {
        i32::try_from(calls).map_or(f64::INFINITY, f64::from) / self.window.as_secs_f64()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut usage = Table::new(&[
            ("process", Align::Left),
            ("CPU %", Align::Right),
            ("queries/s", Align::Right),
        ]);
        for Usage { name, cpu, queries } in &self.services {
            let queries = format!("{:.2}", self.a_second(*queries));
            usage.row([(*name).to_owned(), format!("{cpu:.2}"), queries]);
        }
        let both = |cpu, queries| [format!("{cpu:.2}"), format!("{queries:.2}")];
        let [cpu, queries] = both(self.cpu(), self.queries_a_second());
        usage.row(["together".to_owned(), cpu, queries]);
        let [cpu, queries] = both(CPU_GOAL, QUERIES_GOAL);
        usage.row(["to stay under".to_owned(), cpu, queries]);
        for Usage { name, cpu, .. } in &self.servers {
            usage.row([(*name).to_owned(), format!("{cpu:.2}"), String::new()]);
        }
        let mut statements = Table::new(&[
            ("role", Align::Left),
            ("times", Align::Right),
            ("a second", Align::Right),
            ("statement", Align::Left),
        ]);
        for Sent {
            role,
            statement,
            calls,
        } in &self.statements
        {
            let shown: String = statement.chars().take(SHOWN_CHARS).collect();
            let a_second = format!("{:.2}", self.a_second(*calls));
            statements.row([role.clone(), calls.to_string(), a_second, shown]);
        }
        writeln!(f, "{:.0} s\n\n{usage}\n{statements}", self.window.as_secs_f64())?;
        if self.debug_build {
            writeln!(
                f,
                "a debug build: start the services with RELAYFORGE_PROFILE=release for figures that mean something"
            )?;
        }
        let verdict = match (self.was_idle(), self.is_right()) {
            (false, _) => "WRONG: somebody sent webhooks meanwhile",
            (true, false) => "MISSED: see above",
            (true, true) => "met",
        };
        writeln!(f, "{verdict}")
    }
}

#[cfg(test)]
mod tests {
    use sql::activity::StatementCount;

    use super::*;

    fn counts(counts: &[(&str, &str, i64)]) -> StatementCounts {
        let count = |(role, statement, calls): &(&str, &str, i64)| StatementCount {
            role: (*role).to_owned(),
            statement: (*statement).to_owned(),
            calls: *calls,
        };
        StatementCounts {
            counts: counts.iter().map(count).collect(),
            generation: 0,
        }
    }

    fn report(cpu: f64, queries: i64, statement: &str) -> Report {
        Report {
            window: Duration::from_secs(10),
            services: vec![Usage {
                name: "api",
                cpu,
                queries,
            }],
            servers: Vec::new(),
            statements: sent(&counts(&[]), &counts(&[("relayforge_api", statement, queries)])),
            debug_build: false,
        }
    }

    #[test]
    fn what_was_sent_is_the_difference_by_role() {
        let before = counts(&[("a", "one", 5), ("a", "two", 3), ("b", "one", 1)]);
        let after = counts(&[
            ("a", "one", 6),
            ("a", "two", 3),
            ("b", "one", 9),
            ("b", "three", 2),
        ]);
        let found: Vec<_> = sent(&before, &after)
            .into_iter()
            .map(|sent| (sent.role, sent.statement, sent.calls))
            .collect();
        let expected = [("b", "one", 8), ("b", "three", 2), ("a", "one", 1)];
        assert_eq!(
            found,
            expected.map(|(role, text, calls)| (role.to_owned(), text.to_owned(), calls))
        );
    }

    #[test]
    fn each_goal_can_be_missed_and_work_is_not_idleness() {
        assert!(report(0.99, 49, "select 1").is_right());
        for (missed, line) in [
            (report(1.0, 1, "select 1"), "MISSED"),
            (report(0.1, 50, "select 1"), "MISSED"),
            (report(0.1, 1, "select relayforge.ingest_webhooks($1)"), "WRONG"),
        ] {
            assert!(!missed.is_right(), "{missed}");
            assert!(missed.to_string().contains(line), "{missed}");
        }
    }
}
