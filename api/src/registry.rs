//! Tenants, sources and secrets in memory, and the task that keeps them fresh: LISTEN first, then load, so that no
//! change falls in between; a change is live within a second.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use observability::admin::Readiness;
use sql::config::{CONFIG_CHANNEL, Source, Tenant, load_secrets, load_sources, load_tenants};
use sql::pool::Listener;
use sql::secret::{MasterKeys, SecretOwner};
use sql::{DatabaseConfig, DbError, Pool};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::WebhooksConfig;
use crate::signature::VerifyingKey;

/// Reloaded at least this often, even if nobody says that anything has changed.
const RELOAD_EVERY: Duration = Duration::from_secs(60);

/// How often the listening connection has to answer.
const PING_EVERY: Duration = Duration::from_secs(5);

/// Pause before the next try when the database is away.
const RETRY_EVERY: Duration = Duration::from_millis(500);

/// Unconfirmed for longer than this, the API is not ready.
const NOT_READY_AFTER: Duration = Duration::from_secs(30);

/// Unconfirmed for longer than this, ingest stops: a retired secret must not verify for ever.
const REFUSE_AFTER: Duration = Duration::from_secs(300);

/// Name of the readiness check.
pub const CHECK: &str = "configuration";

/// A key that verifies, and the stored version it came from.
#[derive(Debug, Clone)]
pub struct SecretVersion {
    /// The stored version; none for a secret from the environment.
    pub id: Option<Uuid>,
}

/// The valid keys of a tenant and source, newest first.
#[derive(Debug, Clone, Default)]
pub struct KeyRing {
    /// What verifies, index by index with `versions`.
    pub keys: Vec<VerifyingKey>,
    /// Where each key came from.
    pub versions: Vec<SecretVersion>,
}

/// The configuration as of one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    tenants: HashMap<Uuid, Tenant>,
    slugs: HashMap<String, Uuid>,
    sources: HashMap<String, Source>,
    rings: HashMap<Uuid, HashMap<String, KeyRing>>,
}

impl Snapshot {
    /// A tenant by id or slug.
    pub fn tenant(&self, name: &str) -> Option<&Tenant> {
        let id = match Uuid::try_parse(name) {
            // Only the form with hyphens: 32 hex digits are a valid slug too.
            Ok(id) if name.len() == 36 => id,
            _ => *self.slugs.get(name)?,
        };
        self.tenants.get(&id)
    }

    /// A tenant by id.
    pub fn tenant_by_id(&self, id: Uuid) -> Option<&Tenant> {
        self.tenants.get(&id)
    }

    /// A source by name.
    pub fn source(&self, name: &str) -> Option<&Source> {
        self.sources.get(name)
    }

    /// The keys that verify for a tenant and source; none if no secret is configured.
    pub fn keys(&self, tenant: Uuid, source: &str) -> Option<&KeyRing> {
        self.rings.get(&tenant)?.get(source)
    }
}

/// What the registry needs to make keys of sealed secrets.
pub struct KeyMaterial {
    /// Opens sealed secrets; none in development without a master key.
    pub master_keys: Option<MasterKeys>,
    /// The fallback secrets and the tenant they are for.
    pub webhooks: WebhooksConfig,
}

/// The present snapshot and how long ago it was last known to be right.
#[derive(Debug, Clone, Default)]
pub struct Registry(Arc<RwLock<State>>);

#[derive(Debug, Default)]
struct State {
    snapshot: Arc<Snapshot>,
    confirmed: Option<Instant>,
}

impl Registry {
    /// The present snapshot; none before the first load and after five minutes without the database.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let age = state.confirmed?.elapsed();
        (age <= REFUSE_AFTER).then(|| Arc::clone(&state.snapshot))
    }

    /// How long ago the snapshot was last known to be right; none before the first load.
    pub fn age(&self) -> Option<Duration> {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        state.confirmed.map(|at| at.elapsed())
    }

    fn publish(&self, snapshot: Snapshot) {
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *state = State {
            snapshot: Arc::new(snapshot),
            confirmed: Some(Instant::now()),
        };
    }

    fn confirm(&self) {
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        state.confirmed = Some(Instant::now());
    }

    /// Keeps the registry fresh until `stop`.
    pub async fn keep_fresh(
        self,
        database: DatabaseConfig,
        pool: Pool,
        material: KeyMaterial,
        readiness: Readiness,
        stop: CancellationToken,
    ) {
        loop {
            let lost = tokio::select! {
                () = stop.cancelled() => return,
                lost = self.listen_and_load(&database, &pool, &material, &readiness) => lost,
            };
            tracing::warn!(error = %lost, "configuration can't be refreshed; trying again");
            if self.age().is_none_or(|age| age > NOT_READY_AFTER) {
                readiness.set(CHECK, Err("not refreshed for 30 s"));
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RETRY_EVERY) => {}
            }
        }
    }

    /// Returns when the listening connection, or a load, fails.
    async fn listen_and_load(
        &self,
        database: &DatabaseConfig,
        pool: &Pool,
        material: &KeyMaterial,
        readiness: &Readiness,
    ) -> DbError {
        let mut listener = match Listener::connect(database, CONFIG_CHANNEL).await {
            Ok(listener) => listener,
            Err(error) => return error,
        };
        loop {
            match load(pool, material).await {
                Ok(snapshot) => self.publish(snapshot),
                Err(error) => return error,
            }
            readiness.set(CHECK, Ok(()));
            let reload_at = tokio::time::Instant::now() + RELOAD_EVERY;
            loop {
                tokio::select! {
                    notification = listener.next() => match notification {
                        Some(_) => break,
                        None => return DbError::Unavailable("the listening connection was lost".to_owned()),
                    },
                    () = tokio::time::sleep_until(reload_at) => break,
                    () = tokio::time::sleep(PING_EVERY) => match listener.ping().await {
                        Ok(()) => self.confirm(),
                        Err(error) => return error,
                    },
                }
            }
        }
    }
}

async fn load(pool: &Pool, material: &KeyMaterial) -> Result<Snapshot, DbError> {
    let client = pool.get().await?;
    let tenants = load_tenants(&client).await?;
    let sources = load_sources(&client).await?;
    let secrets = load_secrets(&client).await?;
    let mut snapshot = Snapshot {
        slugs: tenants
            .iter()
            .map(|tenant| (tenant.slug.clone(), tenant.id))
            .collect(),
        tenants: tenants.into_iter().map(|tenant| (tenant.id, tenant)).collect(),
        sources: sources
            .into_iter()
            .map(|source| (source.name.clone(), source))
            .collect(),
        rings: HashMap::new(),
    };
    for stored in secrets {
        let owner = SecretOwner {
            tenant_id: stored.tenant_id,
            source: &stored.source,
            id: stored.id,
        };
        let opened = match &material.master_keys {
            Some(keys) => keys
                .open(owner, &stored.sealed)
                .map_err(|error| error.to_string()),
            None => Err("SECRETS__MASTER_KEY is not set".to_owned()),
        };
        let key =
            opened.and_then(|text| VerifyingKey::new(text.expose().as_bytes()).map_err(|e| e.to_string()));
        match key {
            Ok(key) => add_key(
                &mut snapshot,
                stored.tenant_id,
                &stored.source,
                key,
                Some(stored.id),
            ),
            // One secret that does not open must not take the others away.
            Err(error) => {
                tracing::error!(tenant.id = %stored.tenant_id, source = stored.source, secret.id = %stored.id, error,
                    "a secret can't be used");
            }
        }
    }
    add_fallbacks(&mut snapshot, &material.webhooks);
    Ok(snapshot)
}

fn add_fallbacks(snapshot: &mut Snapshot, webhooks: &WebhooksConfig) {
    let fallbacks = [
        ("generic", &webhooks.generic_hmac_secret),
        ("github", &webhooks.github_secret),
        ("stripe", &webhooks.stripe_endpoint_secret),
    ];
    for (source, secret) in fallbacks {
        let tenant = webhooks.default_tenant_id;
        if snapshot.keys(tenant, source).is_some() {
            continue;
        }
        if let Some(key) = secret
            .as_ref()
            .and_then(|text| VerifyingKey::new(text.expose().as_bytes()).ok())
        {
            add_key(snapshot, tenant, source, key, None);
        }
    }
}

fn add_key(snapshot: &mut Snapshot, tenant: Uuid, source: &str, key: VerifyingKey, id: Option<Uuid>) {
    let ring = snapshot
        .rings
        .entry(tenant)
        .or_default()
        .entry(source.to_owned())
        .or_default();
    ring.keys.push(key);
    ring.versions.push(SecretVersion { id });
}
