//! How long the views take to answer what a DBA asks them, on a full database.

use sql::volume::{Explained, Role, Scratch, ViewQuery, explain, view_queries};

use super::report::Plan;
use super::{Cell, Report, Section};

/// What each answer is promised to take at the most, planned and run.
const PROMISED_MS: f64 = 100.0;

/// Times that each question is asked, on a connection of its own.
const TIMES: usize = 5;

/// Asks them all.
pub(super) async fn measure(scratch: &Scratch, report: &mut Report) -> anyhow::Result<()> {
    let mut section = Section::new(
        "views",
        "Views, as role relayforge_dba",
        &["view", "question", "rows", "first ms", "second ms", "worst of 5 ms", "of it planning ms", ""],
    )
    .noted("Planning and execution together; the first on a new connection, which has read nothing of the catalogue yet.");
    let owner = scratch.session(Role::Owner).await?;
    for query in view_queries(&owner).await? {
        let session = scratch.session(Role::Dba).await?;
        let mut answers: Vec<Explained> = Vec::with_capacity(TIMES);
        for _ in 0..TIMES {
            answers.push(explain(&session, &query.statement, false).await?);
        }
        let took = |answer: &Explained| answer.planning_ms + answer.execution_ms;
        let [first, second, ..] = &answers[..] else {
            anyhow::bail!("a question was asked less than twice");
        };
        let worst = answers.iter().fold(
            first,
            |worst, one| if took(one) > took(worst) { one } else { worst },
        );
        let slow = took(worst) > PROMISED_MS;
        section.row([
            Cell::text(&query.view),
            Cell::text(&query.what),
            Cell::figure(first.rows, 0),
            Cell::figure(took(first), 1),
            Cell::figure(took(second), 1),
            Cell::figure(took(worst), 1),
            Cell::figure(worst.planning_ms, 1),
            Cell::text(if slow { "OVER" } else { "" }),
        ]);
        let ViewQuery {
            view,
            what,
            statement,
        } = query;
        let name = format!("{view}, {what}");
        report.at_most(format!("ms, {name}"), took(worst), PROMISED_MS);
        report.plans.push(Plan {
            name,
            text: explain(&session, &statement, true).await?.plan,
            statement,
            slow,
        });
    }
    report.sections.push(section);
    Ok(())
}
