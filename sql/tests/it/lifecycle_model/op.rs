//! What can happen, and how it is drawn at random. A number picks one of the jobs, messages or runs that there are when
//! the operation's turn comes (modulo how many), so that shrinking a sequence leaves the rest of it meaningful.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

/// One step of a sequence.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// Webhooks arrive, in one batch.
    Ingest(Vec<Sent>),
    /// A relay claims up to `limit` messages of a target, and this becomes of them.
    Relay {
        target: &'static str,
        limit: u8,
        fate: Fate,
    },
    /// A consumer takes messages from the broker, in one call; with `redelivered` they come again later.
    Deliver { messages: Vec<u8>, redelivered: bool },
    /// A message comes that was acknowledged long ago.
    DeliverOld(u8),
    /// Runs report success, in one call: current ones, late ones, the same one twice.
    Complete(Vec<u8>),
    /// A run reports a failure.
    Fail {
        run: u8,
        retryable: bool,
        retry_after_seconds: Option<u16>,
    },
    /// A run asks for more time.
    Renew(u8),
    /// A consumer that is told to end hands a run back.
    HandBack(u8),
    /// The broker loses all it has, and all messages are written anew.
    LoseBroker,
    /// Whatever is due next is published, and all that the broker has is delivered. Where it is forgotten, the relay died
    /// before it had said so.
    Turn { forgotten: bool },
    /// All consumers die: nobody renews a lease until they all have run out. Then the sweeper may come at once.
    Crash { swept: bool },
    /// The sweeper comes by; a `patient` one allows a job one start more than consumers do.
    Sweep { limit: u8, patient: bool },
    /// Somebody cancels, holds, releases or reprocesses jobs, one that does not exist among them.
    Verb { verb: Verb, jobs: Vec<u8> },
    /// A job's event is erased.
    Erase(u8),
    /// Upkeep gives up jobs whose event is about to go.
    Expire,
    /// Time passes, in seconds.
    Pass(u32),
    /// Until the next message in the outbox is due.
    PassUntilDue,
    /// Until a second after the next UTC midnight.
    PassMidnight,
    /// The database's clock is set back by that many seconds.
    SetBack(u16),
}

/// What becomes of claimed messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The broker has them.
    Confirmed,
    /// The broker refuses them.
    Deferred,
    /// They can't be made.
    Abandoned,
    /// The broker has them, and the relay dies before it has said so.
    Forgotten,
}

/// What an operator does to jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Cancel,
    Hold,
    Release,
    Reprocess,
}

/// A webhook, made of few tenants, sources and keys, so that they meet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) tenant: Tenant,
    pub(crate) source: Source,
    pub(crate) key: Key,
    /// When it was signed, in seconds since the start of the sequence.
    pub(crate) signed: Option<u8>,
}

/// Tenants of the test database; `Nobody` is in none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tenant {
    /// No quota that matters.
    Free,
    /// Two events a day, then 429.
    Strict,
    /// Two events a day, then two that are held.
    Lenient,
    Suspended,
    Nobody,
}

impl Tenant {
    pub(crate) const ALL: [Self; 5] = [
        Self::Free,
        Self::Strict,
        Self::Lenient,
        Self::Suspended,
        Self::Nobody,
    ];
}

/// Sources of the test database; `Nowhere` is in none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// Known by id or body, duplicates are absorbed.
    Generic,
    /// Known by id, which is required; an older signature is a replay.
    Stripe,
    /// The same, and every signature is a replay.
    Never,
    /// As generic, and published to others.
    Loud,
    /// Each delivery is an event.
    Each,
    Nowhere,
}

/// What two deliveries are the same by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// The provider's id.
    Id(u8),
    /// No id: the body.
    Body(u8),
}

fn sent() -> impl Strategy<Value = Sent> {
    let tenant = prop_oneof![
        8 => Just(Tenant::Free),
        5 => Just(Tenant::Strict),
        6 => Just(Tenant::Lenient),
        1 => select(&[Tenant::Suspended, Tenant::Nobody][..]),
    ];
    let source = prop_oneof![
        6 => Just(Source::Generic),
        6 => Just(Source::Stripe),
        2 => select(&[Source::Never, Source::Loud, Source::Each, Source::Nowhere][..]),
    ];
    let key = prop_oneof![9 => (0..3_u8).prop_map(Key::Id), 1 => Just(Key::Body(0))];
    let signed = option::weighted(0.9, 0..4_u8);
    (tenant, source, key, signed).prop_map(|(tenant, source, key, signed)| Sent {
        tenant,
        source,
        key,
        signed,
    })
}

fn relay() -> impl Strategy<Value = Op> {
    let target = prop_oneof![6 => Just("jobs"), 4 => Just("retries"), 1 => select(&["events", "dlq"][..])];
    let fate = prop_oneof![
        8 => Just(Fate::Confirmed),
        2 => Just(Fate::Deferred),
        3 => Just(Fate::Abandoned),
        3 => Just(Fate::Forgotten),
    ];
    (target, prop_oneof![1 => 1..3_u8, 2 => Just(9)], fate).prop_map(|(target, limit, fate)| Op::Relay {
        target,
        limit,
        fate,
    })
}

fn verb() -> impl Strategy<Value = Op> {
    let verb = prop_oneof![
        1 => Just(Verb::Cancel),
        2 => Just(Verb::Hold),
        2 => Just(Verb::Release),
        3 => Just(Verb::Reprocess),
    ];
    (verb, vec(any::<u8>(), 1..4)).prop_map(|(verb, jobs)| Op::Verb { verb, jobs })
}

/// One operation; the weights are such that most jobs get somewhere.
fn op() -> impl Strategy<Value = Op> {
    let fail = (
        any::<u8>(),
        prop::bool::weighted(0.8),
        option::weighted(0.2, 0..500_u16),
    )
        .prop_map(|(run, retryable, retry_after_seconds)| Op::Fail {
            run,
            retryable,
            retry_after_seconds,
        });
    let deliver = (vec(any::<u8>(), 1..4), prop::bool::weighted(0.25)).prop_map(|(messages, redelivered)| {
        Op::Deliver {
            messages,
            redelivered,
        }
    });
    let sweep = (prop_oneof![1 => Just(1), 3 => Just(9)], any::<bool>());
    let pass = prop_oneof![3 => 1..20_u32, 1 => 20..4000_u32];
    prop_oneof![
        4 => vec(sent(), 1..4).prop_map(Op::Ingest),
        9 => prop::bool::weighted(0.3).prop_map(|forgotten| Op::Turn { forgotten }),
        8 => relay(),
        10 => deliver,
        2 => any::<u8>().prop_map(Op::DeliverOld),
        2 => vec(any::<u8>(), 1..3).prop_map(Op::Complete),
        9 => fail,
        3 => any::<u8>().prop_map(Op::Renew),
        2 => any::<u8>().prop_map(Op::HandBack),
        2 => Just(Op::LoseBroker),
        4 => prop::bool::weighted(0.8).prop_map(|swept| Op::Crash { swept }),
        3 => sweep.prop_map(|(limit, patient)| Op::Sweep { limit, patient }),
        8 => verb(),
        2 => any::<u8>().prop_map(Op::Erase),
        4 => Just(Op::Expire),
        4 => Just(Op::PassUntilDue),
        2 => pass.prop_map(Op::Pass),
        3 => Just(Op::PassMidnight),
        1 => (1..100_u16).prop_map(Op::SetBack),
    ]
}

/// A sequence of at most that many operations.
pub(crate) fn sequence(most: usize) -> impl Strategy<Value = Vec<Op>> {
    vec(op(), 1..=most)
}
