//! Faults, and what is left of the promises afterwards: processes killed, frozen and started again, servers that stop,
//! stall or lose everything, while thousands of webhooks are sent; then the ledger, in which every accepted event is
//! exactly one job in a final state.
//!
//! Small by default, so that the whole suite stays fast; `RELAYFORGE_FAULTS=full` (`./dev faults`) gives each test its
//! real size. Random, but repeatable in what it chooses: `RELAYFORGE_TEST_SEED` sets the seed that each test prints.
//! `cast.rs` starts the services, `load.rs` sends, `ledger.rs` judges, `wire.rs` stops a process in a chosen gap.

mod broker;
mod cast;
mod clock;
mod database;
mod failing;
mod frozen;
mod gaps;
mod ledger;
mod load;
mod protocol;
mod queue;
mod stranger;
mod wire;

/// How much a test does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    Small,
    Full,
}

impl Size {
    /// What `RELAYFORGE_FAULTS` says: nothing, or `full`.
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's own setting, which no service reads"
    )]
    pub(crate) fn chosen() -> Self {
        match std::env::var("RELAYFORGE_FAULTS").as_deref() {
            Err(_) | Ok("" | "small") => Self::Small,
            Ok("full") => Self::Full,
            Ok(other) => panic!("RELAYFORGE_FAULTS is small or full, not {other:?}"),
        }
    }

    /// One of two.
    pub(crate) fn of<T>(self, small: T, full: T) -> T {
        match self {
            Self::Small => small,
            Self::Full => full,
        }
    }
}

/// Where the choices of a test begin; says so.
#[expect(
    clippy::disallowed_methods,
    reason = "a test's own setting, which no service reads"
)]
pub(crate) fn seed(test: &str) -> u64 {
    let set = std::env::var("RELAYFORGE_TEST_SEED").ok();
    let seed = set.map_or_else(rand::random, |seed| {
        seed.parse().expect("RELAYFORGE_TEST_SEED is a number")
    });
    println!("faults: {test}: RELAYFORGE_TEST_SEED={seed}");
    seed
}

/// Says that a test can't be done here, which a machine that checks everything takes for a failure.
#[expect(
    clippy::disallowed_methods,
    reason = "a test's own setting, which no service reads"
)]
pub(crate) fn skipped(test: &str, why: &str) {
    println!("SKIPPED: {test}: {why}");
    assert!(
        std::env::var_os("CI").is_none(),
        "{test} must not be skipped: {why}"
    );
}
