//! Brings the database to what the state file says, adding what is missing and removing nothing: run twice, it changes
//! nothing; with a new state file beside an old database, it adds versions and keys.

use std::fmt::Write as _;
use std::str::FromStr as _;
use std::time::Duration;

use anyhow::Context as _;
use ring::digest::{SHA256, digest};
use sql::config::{
    NewSource, StoredSecret, add_secret, create_source, create_tenant, load_secrets,
    load_tenants as all_tenants, new_id,
};
use sql::event::SourceKind;
use sql::operators::create_admin_key;
use sql::secret::{MasterKeys, SecretOwner};
use sql::{DbError, GenericClient, Secret};
use uuid::Uuid;

use super::{CHAOS, State, TENANT};
use crate::config::Target;

/// How long a change may take until a running API knows of it: a second is promised.
const LIVE_AFTER: Duration = Duration::from_millis(1_500);

/// What the database has now.
pub struct Setup {
    tenant_id: Uuid,
    state: State,
    changed: bool,
}

impl Setup {
    /// Shell assignments, a line each; no value holds a quote.
    pub fn variables(&self) -> String {
        let state = &self.state;
        let tenant_id = self.tenant_id.to_string();
        let mut text = String::new();
        for (name, value) in [
            ("DEMO_TENANT", TENANT),
            ("DEMO_TENANT_ID", &tenant_id),
            ("DEMO_GENERIC_SECRET", &state.generic_secret),
            ("DEMO_GITHUB_SECRET", &state.github_secret),
            ("DEMO_STRIPE_SECRET", &state.stripe_secret),
            ("RELAYFORGE_ADMIN_KEY", &state.admin_key),
            ("RELAYFORGE_OPERATOR_KEY", &state.operator_key),
            ("RELAYFORGE_VIEWER_KEY", &state.viewer_key),
        ] {
            let _ = writeln!(text, "{name}='{value}'");
        }
        text
    }

    /// Waits until a running API knows of what was just made, if anything was.
    pub async fn settle(&self) {
        if self.changed {
            tokio::time::sleep(LIVE_AFTER).await;
        }
    }
}

/// Makes what is missing of the tenant, its secrets, the source `chaos` and the admin keys.
///
/// # Errors
/// If the database, the master key or the state file can't be used.
pub async fn setup(target: &Target) -> anyhow::Result<Setup> {
    let keys = MasterKeys::new(&target.master_key, []).context("SECRETS__MASTER_KEY")?;
    let pool = sql::pool::connect(&target.database, "relayforge-perf").context("DATABASE__URL")?;
    let client = pool.get().await.map_err(DbError::from)?;
    // Kept before it is used: a secret that only the database knows would be of no use to anybody.
    let state = State::load_or_make(&target.state)?;
    let (tenant_id, mut changed) = tenant(&client, TENANT, "Demo").await?;
    changed |= made(create_source(&client, chaos()).await)?;
    changed |= add_missing_secrets(&client, &keys, tenant_id, &state).await?;
    for (role, key) in [
        ("admin", &state.admin_key),
        ("operator", &state.operator_key),
        ("viewer", &state.viewer_key),
    ] {
        let hash = digest(&SHA256, key.as_bytes());
        changed |= made(create_admin_key(&client, &format!("demo {role}"), role, hash.as_ref()).await)?;
    }
    Ok(Setup {
        tenant_id,
        state,
        changed,
    })
}

/// Slugs of so many tenants that load is spread over, made as far as they are missing, with the demo tenant's secrets. A
/// running API knows of them when this returns.
///
/// # Errors
/// As of [`setup`].
pub(crate) async fn load_tenants(target: &Target, state: &State, count: u32) -> anyhow::Result<Vec<String>> {
    let keys = MasterKeys::new(&target.master_key, []).context("SECRETS__MASTER_KEY")?;
    let pool = sql::pool::connect(&target.database, "relayforge-perf").context("DATABASE__URL")?;
    let client = pool.get().await.map_err(DbError::from)?;
    let (mut slugs, mut changed) = (Vec::new(), false);
    for number in 0..count {
        let slug = format!("load-{number}");
        let (tenant_id, is_new) = tenant(&client, &slug, "Load").await?;
        changed |= is_new | add_missing_secrets(&client, &keys, tenant_id, state).await?;
        slugs.push(slug);
    }
    if changed {
        tokio::time::sleep(LIVE_AFTER).await;
    }
    Ok(slugs)
}

/// A tenant's id, and whether it was just made.
async fn tenant(client: &impl GenericClient, slug: &str, name: &str) -> anyhow::Result<(Uuid, bool)> {
    match create_tenant(client, slug, name, None).await {
        Ok(id) => Ok((id, true)),
        Err(DbError::Conflict(_)) => Ok((find_tenant(client, slug).await?, false)),
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn find_tenant(client: &impl GenericClient, slug: &str) -> anyhow::Result<Uuid> {
    let tenants = all_tenants(client).await?;
    let found = tenants.iter().find(|tenant| tenant.slug == slug);
    found
        .map(|tenant| tenant.id)
        .with_context(|| format!("there is no tenant \"{slug}\""))
}

fn chaos() -> NewSource<'static> {
    NewSource {
        name: CHAOS,
        kind: SourceKind::Generic,
        dedup: "event_id_or_hash",
        replay_policy: "absorb",
        job_kind: "chaos",
        fanout: false,
    }
}

/// Whether it was made; that it was there before is no error.
fn made<T>(result: Result<T, DbError>) -> Result<bool, DbError> {
    match result {
        Ok(_) => Ok(true),
        Err(DbError::Conflict(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Adds a version of each secret of the state that no valid version opens to. Whether it added one.
async fn add_missing_secrets(
    client: &impl GenericClient,
    keys: &MasterKeys,
    tenant_id: Uuid,
    state: &State,
) -> anyhow::Result<bool> {
    let stored = load_secrets(client).await?;
    let mut added = false;
    for (source, secret) in [
        (SourceKind::Generic.as_str(), &state.generic_secret),
        (SourceKind::Github.as_str(), &state.github_secret),
        (SourceKind::Stripe.as_str(), &state.stripe_secret),
        (CHAOS, &state.generic_secret),
    ] {
        let is_it = |version: &&StoredSecret| {
            let owner = SecretOwner {
                tenant_id,
                source,
                id: version.id,
            };
            // One that does not open was sealed under a key of earlier times.
            version.tenant_id == tenant_id
                && version.source == source
                && keys
                    .open(owner, &version.sealed)
                    .is_ok_and(|opened| opened.expose() == secret)
        };
        if stored.iter().find(is_it).is_none() {
            let id = new_id(client).await?;
            let sealed = keys.seal(
                SecretOwner {
                    tenant_id,
                    source,
                    id,
                },
                &Secret::from_str(secret)?,
            )?;
            add_secret(
                client,
                &StoredSecret {
                    id,
                    tenant_id,
                    source: source.to_owned(),
                    sealed,
                },
            )
            .await?;
            added = true;
        }
    }
    Ok(added)
}
