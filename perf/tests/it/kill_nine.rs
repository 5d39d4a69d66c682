//! SIGKILL of relay, consumer and api in the middle of a thousand webhooks: none is lost, none becomes two jobs, no job
//! is finished twice.
//!
//! Random, but repeatable in what it chooses: `RELAYFORGE_TEST_SEED` sets the seed that it prints.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use perf::client::{Addressing, Client};
use perf::demo::{CHAOS, TENANT};
use perf::ledger::{Accepted, compare};
use perf::scenario::{Delivery, ORDER_CREATED};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use sql::event::SourceKind;
use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::service::Service;
use crate::world::{World, eventually_or};

const WEBHOOKS: usize = 1_000;
const SENDERS: usize = 16;

/// Of each service.
const KILLS_EACH: usize = 4;
const SERVICES: [&str; 3] = ["api", "relay", "consumer"];
const KILLS: usize = KILLS_EACH * SERVICES.len();

/// Webhooks between two kills. Senders wait for the killer when they are ahead of it by more than this, so that the
/// kills fall into the sending however fast the machine is.
const BETWEEN_KILLS: usize = WEBHOOKS / (KILLS + 1);

/// Longest that a job pretends to work, and that a service stays dead, in milliseconds.
const LONGEST_JOB_MS: u64 = 150;
const LONGEST_DEATH_MS: u64 = 300;

/// How long sending and killing may take; ten seconds or so are usual.
const SENT_WITHIN: Duration = Duration::from_secs(120);

/// How long everything may take to become final after the last answer: a lease, the sweeper's pace, and the relay's
/// pause when it comes back.
const FINAL_WITHIN: Duration = Duration::from_secs(30);

/// A sender's pause before it tries again, and how often it tries, as long as somebody may be dead.
const RETRY_AFTER: Duration = Duration::from_millis(25);
const MOST_TRIES: u32 = 2_000;

/// What all senders share.
struct Sending {
    api: String,
    secret: String,
    events: Vec<Event>,
    next: AtomicU32,
    /// Events answered 2xx, which the killer watches.
    answered: watch::Sender<usize>,
    /// Kills done, which senders watch.
    kills: watch::Receiver<usize>,
    accepted: Mutex<BTreeMap<&'static str, Vec<Accepted>>>,
    /// Tries that were not answered 2xx, and answers that say the event was known.
    retries: AtomicU32,
    known: AtomicU32,
}

struct Event {
    source: &'static str,
    delivery: Delivery,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_nine() {
    let seed = seed();
    println!("kill_nine: RELAYFORGE_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = world_for_kills().await;
    record_every_finish(&world).await;

    let began = Instant::now();
    let since = chrono::Utc::now() - chrono::TimeDelta::minutes(1);
    let (kills_done, kills) = watch::channel(0);
    let sending = Arc::new(Sending {
        api: world.service("api").url(),
        secret: world.state.generic_secret.clone(),
        events: events(&mut random),
        next: AtomicU32::new(0),
        answered: watch::Sender::new(0),
        kills,
        accepted: Mutex::default(),
        retries: AtomicU32::new(0),
        known: AtomicU32::new(0),
    });
    let mut senders = JoinSet::new();
    for _ in 0..SENDERS {
        senders.spawn(send_all(Arc::clone(&sending)));
    }
    let all_sent = async {
        while let Some(sender) = senders.join_next().await {
            sender.unwrap();
        }
    };
    let all_killed = kill_all(world.take_all(), Arc::clone(&sending), kills_done, random);
    let both = async { tokio::join!(all_sent, all_killed) };
    let ((), (victims, killed)) = tokio::time::timeout(SENT_WITHIN, both)
        .await
        .expect("all is sent in time");
    world.put_back(victims);
    let sent_in = began.elapsed();
    all_is_final(&world).await;
    let took = began.elapsed();

    check_promises(&world, &sending, since).await;
    check_finishes(&world).await;
    let rescued = world
        .count("select count(*) from store.job_log where what = 'rescued'")
        .await;
    println!(
        "kill_nine: seed {seed}, kills {killed:?}, {WEBHOOKS} webhooks answered 2xx after {} retries ({} of them known \
         already), {rescued} runs taken over; sent in {:.1} s, all final after {:.1} s",
        sending.retries.load(Ordering::Relaxed),
        sending.known.load(Ordering::Relaxed),
        sent_in.as_secs_f64(),
        took.as_secs_f64(),
    );
    assert!(killed.values().all(|times| *times >= 3), "{killed:?}");
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test's own setting, which no service reads"
)]
fn seed() -> u64 {
    let set = std::env::var("RELAYFORGE_TEST_SEED").ok();
    set.map_or_else(rand::random, |seed| {
        seed.parse().expect("RELAYFORGE_TEST_SEED is a number")
    })
}

/// All services, with limits that are not what is tested here, and a short lease.
async fn world_for_kills() -> World {
    let mut world = World::new().await;
    let no_limit = "1000000";
    let limits = [
        ("HARDENING__INGRESS_RATE_LIMIT_PER_SECOND", no_limit),
        ("HARDENING__INGRESS_BURST", no_limit),
        ("HARDENING__TENANT_RATE_LIMIT_PER_SECOND", no_limit),
        ("HARDENING__TENANT_RATE_LIMIT_BURST", no_limit),
    ];
    world.start("api", &limits).await;
    world.start("relay", &[]).await;
    // As many runs in a row as there are kills may end without an outcome, and the job is no poison for that.
    let consumer = [
        ("APP_ENV", "development"),
        ("CONSUMER__LEASE_MS", "2000"),
        ("CONSUMER__POISON_STARTS", "100"),
    ];
    world.start("consumer", &consumer).await;
    for name in SERVICES {
        world.service(name).answers_ready_with(200).await;
    }
    world
}

/// A row for each time that a job gets an outcome: what no table of ours would show of a second time.
async fn record_every_finish(world: &World) {
    world
        .sql
        .batch_execute(
            "create table public.finishes (job_id uuid not null, outcome text not null);
             create function public.record_finish() returns trigger language plpgsql security definer as $$
             begin
               if new.outcome is not null then
                 insert into public.finishes values (new.id, new.outcome);
               end if;
               return null;
             end $$;
             create trigger record_finish after update on store.jobs
               for each row execute function public.record_finish()",
        )
        .await
        .unwrap();
}

/// Half of the jobs end at once, half of them work for a while, so that kills meet running ones.
fn events(random: &mut StdRng) -> Vec<Event> {
    let event = |number| {
        let mut delivery = ORDER_CREATED.with_event_id(&format!("kill-{number}"));
        let source = if number % 2 == 0 {
            SourceKind::Generic.as_str()
        } else {
            CHAOS
        };
        let data = json!({ "sleep_ms": random.random_range(0..=LONGEST_JOB_MS) });
        delivery.body = json!({ "event": "kill.test", "data": data })
            .to_string()
            .into_bytes();
        Event { source, delivery }
    };
    (0..WEBHOOKS).map(event).collect()
}

async fn send_all(sending: Arc<Sending>) {
    let client = Client::new(&sending.api).unwrap();
    let mut kills = sending.kills.clone();
    loop {
        let number = sending.next.fetch_add(1, Ordering::Relaxed) as usize;
        let Some(event) = sending.events.get(number) else {
            return;
        };
        // The killer may have ended, having done all it was to do.
        let _ = kills
            .wait_for(|done| number <= (done + 2) * BETWEEN_KILLS || *done == KILLS)
            .await;
        let accepted = send_until_accepted(&sending, &client, event).await;
        sending
            .accepted
            .lock()
            .unwrap()
            .entry(event.source)
            .or_default()
            .push(accepted);
        sending.answered.send_modify(|answered| *answered += 1);
    }
}

/// As a provider does: the same event, until the answer is a 2xx.
async fn send_until_accepted(sending: &Sending, client: &Client, event: &Event) -> Accepted {
    let delivery = event
        .delivery
        .clone()
        .signed(SourceKind::Generic, &sending.secret);
    for _ in 0..MOST_TRIES {
        if let Ok(answer) = client
            .deliver(event.source, Addressing::Path(TENANT), &delivery)
            .await
        {
            let status = answer.status.as_u16();
            if status == 202 {
                sending
                    .known
                    .fetch_add(u32::from(answer.deduped() == Some(true)), Ordering::Relaxed);
                return Accepted {
                    provider_event_id: delivery.event_id,
                    event_id: answer.id("event_id"),
                    job_id: answer.id("job_id"),
                };
            }
            assert_eq!(status, 503, "{}", answer.body);
            assert!(answer.headers.contains_key("retry-after"), "{}", answer.body);
        }
        sending.retries.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(RETRY_AFTER).await;
    }
    panic!("{} was not accepted in {MOST_TRIES} tries", delivery.event_id)
}

/// Kills each service so many times, in random order, each at a random point between its share of the answers.
async fn kill_all(
    mut victims: Vec<Service>,
    sending: Arc<Sending>,
    done: watch::Sender<usize>,
    mut random: StdRng,
) -> (Vec<Service>, BTreeMap<&'static str, usize>) {
    let mut order: Vec<&str> = SERVICES.repeat(KILLS_EACH);
    order.shuffle(&mut random);
    let mut killed = BTreeMap::new();
    let mut answered = sending.answered.subscribe();
    for (number, name) in order.into_iter().enumerate() {
        let at = number * BETWEEN_KILLS + random.random_range(1..BETWEEN_KILLS);
        let (moment_us, death_ms) = (
            random.random_range(0..5_000),
            random.random_range(0..=LONGEST_DEATH_MS),
        );
        answered.wait_for(|answered| *answered >= at).await.unwrap();
        // Not always at the moment of an answer.
        tokio::time::sleep(Duration::from_micros(moment_us)).await;
        let victim = victims.iter_mut().find(|service| service.name() == name).unwrap();
        victim.kill().await;
        *killed.entry(victim.name()).or_default() += 1;
        tokio::time::sleep(Duration::from_millis(death_ms)).await;
        victim.restart().await;
        done.send_replace(number + 1);
    }
    (victims, killed)
}

async fn all_is_final(world: &World) {
    let mut last = String::new();
    eventually_or(
        "no job is open and the outbox is empty",
        FINAL_WITHIN,
        &mut last,
        async |last: &mut String| {
            let open = world.count("select count(*) from store.open_jobs").await;
            let waiting = world.count("select count(*) from store.outbox_messages").await;
            *last = format!("{open} jobs are open, {waiting} messages wait");
            (open + waiting == 0).then_some(())
        },
    )
    .await;
}

/// Each 2xx is one event with one job, that of the answer, and there are no others.
async fn check_promises(world: &World, sending: &Sending, since: chrono::DateTime<chrono::Utc>) {
    let accepted = sending.accepted.lock().unwrap().clone();
    let pool = world.db.pool("owner");
    let client = pool.get().await.unwrap();
    for source in [SourceKind::Generic.as_str(), CHAOS] {
        let sent = sending.events.iter().filter(|event| event.source == source);
        let sent: Vec<String> = sent.map(|event| event.delivery.event_id.clone()).collect();
        let answers = &accepted[source];
        let found = compare(&client, world.tenant_id, source, since, &sent, answers)
            .await
            .unwrap();
        assert!(found.is_right(), "{source}: {found:?}");
        assert_eq!(
            (found.accepted, found.stored, found.jobs),
            (sent.len(), sent.len(), sent.len()),
            "{source}"
        );
    }
    let total = i64::try_from(WEBHOOKS).unwrap();
    assert_eq!(world.count("select count(*) from store.jobs").await, total);
    assert_eq!(
        world
            .count("select count(*) from store.jobs where outcome = 'succeeded'")
            .await,
        total
    );
    assert_eq!(world.count("select count(*) from store.dead_jobs").await, 0);
    assert!(
        world.broker.get(&world.broker.topology().dlq).await.is_none(),
        "nothing was given up"
    );
}

/// Each job was finished once, by the rows and by the consumer's own words, and each attempt is accounted for.
async fn check_finishes(world: &World) {
    let total = i64::try_from(WEBHOOKS).unwrap();
    assert_eq!(world.count("select count(*) from public.finishes").await, total);
    assert_eq!(
        world
            .count("select count(distinct job_id) from public.finishes")
            .await,
        total
    );
    let unaccounted = "select count(*) from store.jobs j
        where j.attempts <> 1 + (select count(*) from store.job_log l where l.job_id = j.id and l.what in ('rescued', 'failed'))";
    assert_eq!(
        world.count(unaccounted).await,
        0,
        "an attempt is counted that nothing explains"
    );
    let failed = world
        .count("select count(*) from store.job_log where what in ('failed', 'dead')")
        .await;
    assert_eq!(failed, 0, "no run failed by itself");

    let mut finished: HashMap<Uuid, u32> = HashMap::new();
    for line in world
        .service("consumer")
        .log()
        .lines()
        .filter(|line| line.contains("job succeeded"))
    {
        let line: Value = serde_json::from_str(line).unwrap();
        let job_id = line["job.id"].as_str().and_then(|id| id.parse().ok());
        *finished
            .entry(job_id.unwrap_or_else(|| panic!("no job.id in {line}")))
            .or_default() += 1;
    }
    let twice: Vec<_> = finished.iter().filter(|(_, times)| **times > 1).collect();
    assert!(
        twice.is_empty(),
        "the consumer says that it finished these more than once: {twice:?}"
    );
    // A consumer that died between the commit and the line has not said it; that is a few.
    assert!(
        finished.len() > WEBHOOKS * 9 / 10,
        "{} lines of {WEBHOOKS} jobs",
        finished.len()
    );
}
