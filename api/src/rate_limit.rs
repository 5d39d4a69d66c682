//! Token buckets: one pair for all ingress, one per network of strangers, one per tenant. In memory, bounded.
//!
//! Ingress is judged before anything is known of the sender, so half of it is kept for senders that have verified
//! lately: a flood of unsigned requests drains the open half and the buckets of its own networks, and nothing else.
//! Who such a sender is, is only what a request claims; so it is let through to the signature check, and takes its token
//! after that. A forger that claims to be a sender behind the same proxy burns none of the sender's tokens.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

/// How long a sender counts as one that has verified.
const VERIFIED_FOR: Duration = Duration::from_secs(600);

/// Forged requests under one sender's name that are looked at, as a multiple of the ingress limit: what a wrong signature
/// costs us is a hash over the body, little more than refusing it.
const FORGED_FACTOR: f64 = 50.0;

/// Networks with a bucket of their own; those beyond share one.
const MAX_NETWORKS: usize = 16_384;

/// Senders that are remembered as verified; those beyond are treated as strangers until others are forgotten.
const MAX_VERIFIED: usize = 65_536;

/// A bucket that fills at a rate up to a burst. Rates are per second.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn full(burst: f64, now: Instant) -> Self {
        Self {
            tokens: burst,
            filled: now,
        }
    }

    fn fill(&mut self, rate: f64, burst: f64, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = elapsed.mul_add(rate, self.tokens).min(burst);
        self.filled = now;
    }

    /// Whether there is a token.
    fn has(&mut self, rate: f64, burst: f64, now: Instant) -> bool {
        self.fill(rate, burst, now);
        self.tokens >= 1.0
    }

    /// Takes one token, or says how long until there is one.
    fn take(&mut self, rate: f64, burst: f64, now: Instant) -> Result<(), Duration> {
        if self.has(rate, burst, now) {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.tokens) / rate))
    }
}

/// Who sends, as far as it is known before the signature: network, and the tenant and source that the request names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    network: Network,
    key: u64,
}

impl Sender {
    /// The sender of a request, by what it claims.
    pub fn new(address: IpAddr, tenant: &str, source: &str) -> Self {
        let network = Network::of(address);
        let mut hasher = DefaultHasher::new();
        (network, tenant, source).hash(&mut hasher);
        Self {
            network,
            key: hasher.finish(),
        }
    }
}

/// An IPv4 /24 or an IPv6 /48: what one sender commonly has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Network([u8; 6]);

impl Network {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                Self([0, 0, 4, a, b, c])
            }
            IpAddr::V6(v6) => {
                let octets = v6.octets();
                Self([octets[0], octets[1], octets[2], octets[3], octets[4], octets[5]])
            }
        }
    }
}

/// How a request was let in, which decides what it takes once its signature is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It has taken a token of its network and of the open half.
    Stranger,
    /// It claims to be a sender that has verified lately, and has taken nothing yet.
    Known,
}

/// A sender that has verified.
#[derive(Debug, Clone, Copy)]
struct Known {
    verified: Instant,
    forged: Bucket,
}

/// The limit over all senders.
#[derive(Debug)]
pub struct IngressLimiter {
    half_rate: f64,
    half_burst: f64,
    state: Mutex<IngressState>,
}

#[derive(Debug)]
struct IngressState {
    open: Bucket,
    reserved: Bucket,
    crowd: Bucket,
    networks: HashMap<Network, Bucket>,
    known: HashMap<u64, Known>,
}

impl IngressLimiter {
    /// `rate` requests a second, `burst` at once, half of each for senders that have verified lately.
    pub fn new(rate: u32, burst: u32, now: Instant) -> Self {
        let (half_rate, half_burst) = (f64::from(rate) / 2.0, (f64::from(burst) / 2.0).max(1.0));
        Self {
            half_rate,
            half_burst,
            state: Mutex::new(IngressState {
                open: Bucket::full(half_burst, now),
                reserved: Bucket::full(half_burst, now),
                crowd: Bucket::full((half_burst / 2.0).max(1.0), now),
                networks: HashMap::new(),
                known: HashMap::new(),
            }),
        }
    }

    /// Lets a request in as far as the signature check, or says how long until it is worth trying.
    ///
    /// # Errors
    /// The wait, when the sender's network or everything together is over its limit.
    pub fn admit(&self, sender: Sender, now: Instant) -> Result<Admission, Duration> {
        let (rate, burst) = (self.half_rate, self.half_burst);
        let mut guard = self.lock();
        let state = &mut *guard;
        if let Some(known) = state.known.get_mut(&sender.key)
            && now.saturating_duration_since(known.verified) < VERIFIED_FOR
            && known.forged.has(rate * FORGED_FACTOR, burst * FORGED_FACTOR, now)
        {
            return Ok(Admission::Known);
        }
        // A stranger's network gets half of the open half, so that two networks have to collude to fill it.
        let (network_rate, network_burst) = (rate / 2.0, (burst / 2.0).max(1.0));
        if state.networks.len() >= MAX_NETWORKS && !state.networks.contains_key(&sender.network) {
            state.forget_full_networks(network_rate, network_burst, now);
        }
        let bucket = if state.networks.len() < MAX_NETWORKS || state.networks.contains_key(&sender.network) {
            state
                .networks
                .entry(sender.network)
                .or_insert_with(|| Bucket::full(network_burst, now))
        } else {
            &mut state.crowd
        };
        bucket.take(network_rate, network_burst, now)?;
        state.open.take(rate, burst, now)?;
        Ok(Admission::Stranger)
    }

    /// The signature was right: remembers the sender, which takes its token if it has not yet.
    ///
    /// # Errors
    /// The wait, when the senders that verify are over the limit together.
    pub fn verified(&self, sender: Sender, admission: Admission, now: Instant) -> Result<(), Duration> {
        let (rate, burst) = (self.half_rate, self.half_burst);
        let mut guard = self.lock();
        let state = &mut *guard;
        state.remember(sender, burst * FORGED_FACTOR, now);
        match admission {
            Admission::Stranger => Ok(()),
            Admission::Known => state
                .reserved
                .take(rate, burst, now)
                .or_else(|_| state.open.take(rate, burst, now)),
        }
    }

    /// The signature was wrong: whoever sent it, it was not the sender that it claims to be.
    pub fn forged(&self, sender: Sender, admission: Admission, now: Instant) {
        let (rate, burst) = (self.half_rate * FORGED_FACTOR, self.half_burst * FORGED_FACTOR);
        if admission == Admission::Known
            && let Some(known) = self.lock().known.get_mut(&sender.key)
        {
            // An empty bucket is what the next `admit` looks at.
            let _ = known.forged.take(rate, burst, now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, IngressState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IngressState {
    fn remember(&mut self, sender: Sender, forged_burst: f64, now: Instant) {
        if let Some(known) = self.known.get_mut(&sender.key) {
            known.verified = now;
            return;
        }
        if self.known.len() >= MAX_VERIFIED {
            self.known
                .retain(|_, known| now.saturating_duration_since(known.verified) < VERIFIED_FOR);
        }
        if self.known.len() < MAX_VERIFIED {
            self.known.insert(
                sender.key,
                Known {
                    verified: now,
                    forged: Bucket::full(forged_burst, now),
                },
            );
        }
    }

    fn forget_full_networks(&mut self, rate: f64, burst: f64, now: Instant) {
        self.networks.retain(|_, bucket| {
            let elapsed = now.saturating_duration_since(bucket.filled).as_secs_f64();
            elapsed.mul_add(rate, bucket.tokens) < burst
        });
    }
}

/// The limit of each tenant, taken only after the signature. There are as many buckets as tenants.
#[derive(Debug, Default)]
pub struct TenantLimiter {
    buckets: Mutex<HashMap<Uuid, Bucket>>,
}

impl TenantLimiter {
    /// Lets a signed request of a tenant in, or says how long until it is worth trying.
    ///
    /// # Errors
    /// The wait, when the tenant is over its limit.
    pub fn admit(&self, tenant: Uuid, rate: u32, burst: u32, now: Instant) -> Result<(), Duration> {
        let (rate, burst) = (f64::from(rate), f64::from(burst));
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets
            .entry(tenant)
            .or_insert_with(|| Bucket::full(burst, now))
            .take(rate, burst, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(address: &str) -> Sender {
        Sender::new(address.parse().unwrap(), "acme", "github")
    }

    /// A signed request, all the way.
    fn signed(limiter: &IngressLimiter, sender: Sender, now: Instant) -> bool {
        limiter
            .admit(sender, now)
            .and_then(|admission| limiter.verified(sender, admission, now))
            .is_ok()
    }

    #[test]
    fn a_flood_of_strangers_does_not_shut_out_who_has_verified() {
        let start = Instant::now();
        let limiter = IngressLimiter::new(100, 200, start);
        let friend = sender("192.0.2.1");
        assert!(signed(&limiter, friend, start));
        // Strangers from a thousand networks at once: the open half is 100 tokens, of which one is spent.
        let admitted = (0..=255_u8)
            .flat_map(|b| (0..4_u8).map(move |c| sender(&format!("10.{b}.{c}.1"))))
            .filter(|stranger| limiter.admit(*stranger, start).is_ok())
            .count();
        assert_eq!(admitted, 99);
        // The same address is a stranger's when it names another tenant.
        let neighbour = Sender::new("192.0.2.1".parse().unwrap(), "other", "github");
        assert!(limiter.admit(neighbour, start).is_err());
        let friends = (0..200).filter(|_| signed(&limiter, friend, start)).count();
        assert_eq!(friends, 100, "the reserved half is whole");
        // A second later 50 tokens are back on each side.
        let later = start + Duration::from_secs(1);
        assert_eq!((0..200).filter(|_| signed(&limiter, friend, later)).count(), 100);
        // And after VERIFIED_FOR it is a stranger again, of whom its network admits 50 at once.
        let forgotten = later + VERIFIED_FOR;
        assert_eq!(limiter.admit(friend, forgotten), Ok(Admission::Stranger));
    }

    /// Behind one proxy all networks are one: a forger may claim to be the sender, and burns none of its tokens.
    #[test]
    fn forged_requests_in_a_senders_name_do_not_shut_it_out() {
        let start = Instant::now();
        let limiter = IngressLimiter::new(100, 200, start);
        let friend = sender("192.0.2.1");
        assert!(signed(&limiter, friend, start));
        let forge = |times: usize, now| {
            (0..times)
                .filter(|_| {
                    limiter
                        .admit(friend, now)
                        .map(|admission| limiter.forged(friend, admission, now))
                        .is_ok()
                })
                .count()
        };
        assert_eq!(forge(4000, start), 4000, "they are looked at, and fail");
        assert_eq!(
            (0..100).filter(|_| signed(&limiter, friend, start)).count(),
            100,
            "all tokens are there"
        );
        // Without any bound it would be an attack on our processor.
        assert!(forge(10_000, start) < 1_200);
    }

    #[test]
    fn one_network_of_strangers_gets_half_of_the_open_half() {
        let start = Instant::now();
        let limiter = IngressLimiter::new(100, 200, start);
        assert_eq!(
            (1..=200)
                .filter(|i| limiter.admit(sender(&format!("10.0.0.{i}")), start).is_ok())
                .count(),
            50
        );
        assert!(limiter.admit(sender("10.0.1.1"), start).is_ok());
    }

    #[test]
    fn the_tables_are_bounded() {
        let start = Instant::now();
        let limiter = IngressLimiter::new(1_000_000, 1_000_000, start);
        for i in 0..(u32::try_from(MAX_NETWORKS).unwrap() + 1000) {
            let address = IpAddr::from((i << 8).to_be_bytes());
            let sender = Sender::new(address, "acme", "github");
            let _ = limiter.admit(sender, start);
        }
        assert!(limiter.lock().networks.len() <= MAX_NETWORKS);
        for i in 0..(MAX_VERIFIED + 1000) {
            let sender = Sender {
                network: Network([0; 6]),
                key: i as u64,
            };
            let _ = limiter.verified(sender, Admission::Known, start);
        }
        assert!(limiter.lock().known.len() <= MAX_VERIFIED);
    }

    #[test]
    fn a_tenant_waits_for_itself_only() {
        let start = Instant::now();
        let limiter = TenantLimiter::default();
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(
            (0..10).filter(|_| limiter.admit(a, 1, 3, start).is_ok()).count(),
            3
        );
        assert!(limiter.admit(b, 1, 3, start).is_ok());
        let wait = limiter.admit(a, 1, 3, start).unwrap_err();
        assert!(limiter.admit(a, 1, 3, start + wait).is_ok());
        // A clock that steps back gives nothing and breaks nothing.
        assert!(limiter.admit(a, 1, 3, start).is_err());
    }
}
