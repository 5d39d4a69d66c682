//! The demo tenant's secrets and keys as the provider and the operator know them, made once and kept in a file.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use sql::event::SourceKind;

/// Secrets and keys in clear. Only their sealed or hashed form is in the database.
#[derive(Serialize, Deserialize)]
pub struct State {
    /// Signs generic events, also those of source `chaos`.
    pub generic_secret: String,
    /// Signs GitHub's events.
    pub github_secret: String,
    /// Signs Stripe's events; `whsec_…`, whole.
    pub stripe_secret: String,
    /// A key of the admin API with role `admin`.
    pub admin_key: String,
    /// The same with role `operator`.
    pub operator_key: String,
    /// The same with role `viewer`.
    pub viewer_key: String,
}

impl State {
    /// The kept state.
    ///
    /// # Errors
    /// If the file is not there or is no state.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("{} can't be read", path.display()))?;
        serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is not what was written there; remove it to have new secrets made",
                path.display()
            )
        })
    }

    /// The kept state, or a new one, which is kept before it is returned.
    ///
    /// # Errors
    /// If it can be neither read nor written.
    pub fn load_or_make(path: &Path) -> anyhow::Result<Self> {
        if path.exists() {
            return Self::load(path);
        }
        let state = Self {
            generic_secret: random_hex()?,
            github_secret: random_hex()?,
            stripe_secret: format!("whsec_{}", random_hex()?),
            admin_key: format!("rf_admin_{}", random_hex()?),
            operator_key: format!("rf_operator_{}", random_hex()?),
            viewer_key: format!("rf_viewer_{}", random_hex()?),
        };
        state
            .save(path)
            .with_context(|| format!("{} can't be written", path.display()))?;
        Ok(state)
    }

    /// What signs the webhooks of a kind of source.
    pub fn secret(&self, kind: SourceKind) -> &str {
        match kind {
            SourceKind::Generic => &self.generic_secret,
            SourceKind::Github => &self.github_secret,
            SourceKind::Stripe => &self.stripe_secret,
        }
    }

    /// Whole or not at all, and for its owner's eyes only.
    fn save(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let draft = path.with_extension("new");
        let _ = fs::remove_file(&draft);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        Ok(fs::rename(&draft, path)?)
    }
}

fn random_hex() -> anyhow::Result<String> {
    let mut bytes = [0; 32];
    SystemRandom::new()
        .fill(&mut bytes)
        .ok()
        .context("no random bytes from the system")?;
    Ok(hex::encode(bytes))
}
