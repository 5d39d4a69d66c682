//! SIGKILL in every gap between a promise and its keeping, and at random moments besides, of one of two relays, one of
//! three consumers, or the API: no event is lost, none becomes two jobs, no job is finished twice.
//!
//! A gap is hit for real: a wire holds the message that opens it, then the process is killed, and what was held goes
//! with the connection.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::load::{Load, mixed};
use super::protocol::{ACK, Protocol};
use super::wire::{Moment, Sprung, Trap};
use super::{Size, cast, ledger, seed};
use crate::service::Service;
use crate::world::World;

/// Events that are sent when a trap is set, and the pause before each further one until it springs.
const AT_ONCE: usize = 6;
const ONE_MORE_EVERY: Duration = Duration::from_millis(20);

/// How long a trap may take to spring, with events coming all the time.
const SPRINGS_WITHIN: Duration = Duration::from_secs(20);

/// Longest that a service stays dead, in milliseconds.
const LONGEST_DEATH_MS: u64 = 200;

/// Events that are sent around a kill at random, which comes within so many microseconds.
const AROUND_A_KILL: usize = 6;
const MOMENT_US: u64 = 20_000;

/// How long everything may take to become final after the last answer: a lease, the sweeper's pace, and the relay's
/// pause when it comes back.
const FINAL_WITHIN: Duration = Duration::from_secs(30);

/// A gap, of a kind that there are so many kills in, and where it is.
struct Gap {
    name: &'static str,
    service: &'static str,
    /// What is committed, confirmed or acknowledged.
    of: &'static str,
    /// What must have passed before.
    first: Option<Moment>,
    moment: Moment,
}

const fn gap(name: &'static str, service: &'static str, of: &'static str, moment: Moment) -> Gap {
    Gap {
        name,
        service,
        of,
        first: None,
        moment,
    }
}

const fn asked(words: &'static [&'static str]) -> Moment {
    Moment::Asked(Protocol::Postgres, words)
}

const fn done(words: &'static [&'static str]) -> Moment {
    Moment::Done(Protocol::Postgres, words)
}

const INGEST: &[&str] = &["relayforge.ingest_webhooks("];
const SETTLE: &[&str] = &["relayforge.settle_outbox("];
const SETTLED: &[&str] = &["COMMIT", "relayforge.settle_outbox("];
const START: &[&str] = &["relayforge.start_jobs("];
const COMPLETE: &[&str] = &["relayforge.complete_jobs("];
const FAIL: &[&str] = &["relayforge.fail_jobs("];

/// Every gap, five of them in two places of each kind.
const GAPS: [Gap; 13] = [
    gap("before commit", "api", "ingest", asked(INGEST)),
    gap("before commit", "relay", "settle", asked(SETTLED)),
    gap("before commit", "consumer", "start", asked(START)),
    gap("before commit", "consumer", "complete", asked(COMPLETE)),
    gap("before commit", "consumer", "fail", asked(FAIL)),
    gap("after commit", "api", "ingest", done(INGEST)),
    gap("after commit", "relay", "settle", done(SETTLED)),
    gap("after commit", "consumer", "start", done(START)),
    gap("after commit", "consumer", "complete", done(COMPLETE)),
    gap("after commit", "consumer", "fail", done(FAIL)),
    // The broker has the messages and has said so; the relay has not heard it.
    gap(
        "before confirm",
        "relay",
        "batch",
        Moment::Done(Protocol::Amqp, &[ACK]),
    ),
    // The relay has heard it, and the database has not.
    Gap {
        first: Some(Moment::Done(Protocol::Amqp, &[ACK])),
        ..gap("after confirm", "relay", "batch", asked(SETTLE))
    },
    // Started and committed, and the broker does not know.
    gap(
        "before ack",
        "consumer",
        "start",
        Moment::Asked(Protocol::Amqp, &[ACK]),
    ),
];

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of {}", self.service, self.name, self.of)
    }
}

/// Kills in each place of a gap, so that there are as many in each gap: there are places of each.
fn kills_in(gap: &Gap, size: Size) -> usize {
    let places = GAPS.iter().filter(|other| other.name == gap.name).count();
    size.of(2_usize, 50).div_ceil(places)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_every_gap() {
    let (size, seed) = (Size::chosen(), seed("killed_in_every_gap"));
    let began = Instant::now();
    let mut world = World::new().await;
    ledger::record_every_finish(&world).await;
    let trap = Arc::new(Trap::default());
    cast::start(&mut world, Some(&trap), &[cast::SHORT_LEASE]).await;
    let mut load = Load::start(&world, seed, mixed);
    let mut killer = Killer {
        victims: world.take_all(),
        trap,
        random: StdRng::seed_from_u64(seed),
        in_gaps: BTreeMap::new(),
        in_places: BTreeMap::new(),
        at_random: BTreeMap::new(),
    };
    killer.work(&load, size).await;
    let Killer {
        victims,
        in_gaps,
        in_places,
        at_random,
        ..
    } = killer;
    world.put_back(victims);
    load.send(size.of(0_usize, 2_000).saturating_sub(load.released()));

    let found = ledger::reckon(&world, &mut load, FINAL_WITHIN).await;
    println!(
        "faults: killed_in_every_gap: seed {seed}; kills {in_gaps:?}, at random {at_random:?}; {found}; {:.1} s in all",
        began.elapsed().as_secs_f64()
    );
    println!("faults: killed_in_every_gap: by place {in_places:?}");
    assert_eq!(in_gaps.len(), 5, "{in_gaps:?}");
    let least = size.of(2, 50);
    assert!(in_gaps.values().all(|kills| *kills >= least), "{in_gaps:?}");
    assert_eq!(in_places.len(), GAPS.len(), "{in_places:?}");
    assert_eq!(at_random.len(), 3, "{at_random:?}");
    assert!(found.failed > 0, "some runs failed by themselves");
    // What was committed when the API died was known when it was sent again.
    let unheard = in_places["api after commit of ingest"];
    assert!(
        found.known as usize >= unheard,
        "{} were known of {unheard}",
        found.known
    );
}

/// Kills, and starts again what it has killed.
struct Killer {
    victims: Vec<Service>,
    trap: Arc<Trap>,
    random: StdRng,
    in_gaps: BTreeMap<&'static str, usize>,
    in_places: BTreeMap<String, usize>,
    at_random: BTreeMap<&'static str, usize>,
}

impl Killer {
    async fn work(&mut self, load: &Load, size: Size) {
        let mut order: Vec<&Gap> = GAPS
            .iter()
            .flat_map(|gap| std::iter::repeat_n(gap, kills_in(gap, size)))
            .collect();
        order.shuffle(&mut self.random);
        // As many at random as in one gap, of each kind in turn.
        let at_random = size.of(3, 51);
        let every = order.len().div_ceil(at_random);
        for (number, gap) in order.into_iter().enumerate() {
            self.kill_in(gap, load).await;
            if number % every == 0 {
                let kind = ["api", "relay", "consumer"][number / every % 3];
                self.kill_at_random(kind, load).await;
            }
        }
    }

    async fn kill_in(&mut self, gap: &Gap, load: &Load) {
        let spared = self.random.random_range(0..2);
        let mut told = self.trap.set(gap.service, gap.first, gap.moment, spared);
        load.send(AT_ONCE);
        let deadline = Instant::now() + SPRINGS_WITHIN;
        let Sprung { instance, release: _ } = loop {
            tokio::select! {
                sprung = &mut told => break sprung.unwrap(),
                () = tokio::time::sleep(ONE_MORE_EVERY) => load.send(1),
            }
            assert!(Instant::now() < deadline, "no {gap} within {SPRINGS_WITHIN:?}");
        };
        self.kill(instance).await;
        *self.in_gaps.entry(gap.name).or_default() += 1;
        *self.in_places.entry(gap.to_string()).or_default() += 1;
    }

    async fn kill_at_random(&mut self, kind: &'static str, load: &Load) {
        let of_kind = |service: &&Service| service.kind() == kind;
        let names: Vec<_> = self.victims.iter().filter(of_kind).map(Service::name).collect();
        let instance = names[self.random.random_range(0..names.len())];
        load.send(AROUND_A_KILL);
        let moment_us = self.random.random_range(0..MOMENT_US);
        tokio::time::sleep(Duration::from_micros(moment_us)).await;
        self.kill(instance).await;
        *self.at_random.entry(kind).or_default() += 1;
    }

    async fn kill(&mut self, instance: &str) {
        let victim = self.victims.iter_mut().find(|service| service.name() == instance);
        let victim = victim.unwrap();
        victim.kill().await;
        let death_ms = self.random.random_range(0..=LONGEST_DEATH_MS);
        tokio::time::sleep(Duration::from_millis(death_ms)).await;
        victim.restart().await;
    }
}
