//! One service as a process: started, signalled, killed, started again at the same address. Killed when dropped; if that
//! is because the test fails, the end of its log is printed.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use perf::client::{Answer, Client};
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::binaries::binary;
use crate::world::{eventually, eventually_or};

/// How long a process may take until it listens, on a machine that builds something else meanwhile.
const LISTENS_WITHIN: Duration = Duration::from_secs(30);

/// How long a service may take until it is ready once it listens.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Lines of a log that are shown when a test fails.
const SHOWN_LINES: usize = 60;

/// A service that has run, and may run now.
pub(crate) struct Service {
    kind: &'static str,
    name: &'static str,
    settings: Vec<(String, String)>,
    folder: PathBuf,
    child: Option<Child>,
    /// Where it listens, also while it does not run.
    pub(crate) address: SocketAddr,
}

impl Service {
    /// Starts `relayforge-{kind}` with these settings and nothing of the test's own environment. Where several of a kind
    /// run, each has a name of its own.
    pub(crate) async fn start(
        kind: &'static str,
        name: &'static str,
        folder: &Path,
        settings: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let mut service = Self {
            kind,
            name,
            settings: settings.into_iter().collect(),
            folder: folder.to_owned(),
            child: None,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        service.restart().await;
        service
    }

    /// Gives a setting another value, from the next start on.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        // A later value replaces an earlier one.
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// Starts it again, at the address it had. Returns when it listens.
    pub(crate) async fn restart(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let began = fs::metadata(self.log_path()).map_or(0, |log| log.len());
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        let listen = match self.kind {
            "api" => ("SERVER__PORT".to_owned(), self.address.port().to_string()),
            kind => (
                format!("{}__LISTEN", kind.to_uppercase()),
                self.address.to_string(),
            ),
        };
        let child = Command::new(binary(self.kind))
            .env_clear()
            .envs(self.settings.iter().cloned().chain([listen]))
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let what = format!("relayforge-{} listens", self.name);
        self.address = eventually(&what, LISTENS_WITHIN, async || {
            let exit = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(
                exit.is_none(),
                "relayforge-{} ended: {exit:?}\n{}",
                self.name,
                self.log_end()
            );
            let lines = self.log_from(began);
            lines.lines().find_map(|line| {
                serde_json::from_str::<Value>(line).ok()?["address"]
                    .as_str()?
                    .parse()
                    .ok()
            })
        })
        .await;
    }

    /// `api`, `relay` or `consumer`.
    pub(crate) fn kind(&self) -> &'static str {
        self.kind
    }

    /// Its own name: the kind, unless there are several of it.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Base URL of its listener.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        let pid = self.child.as_ref().and_then(Child::id);
        pid.expect("a running service")
    }

    /// `/readyz` as it is now.
    pub(crate) async fn readyz(&self) -> anyhow::Result<Answer> {
        Client::new(&self.url())?.get("/readyz").await
    }

    /// Waits until `/readyz` answers with this status.
    pub(crate) async fn answers_ready_with(&self, status: u16) -> Answer {
        let what = format!("/readyz of relayforge-{} answers {status}", self.name);
        let mut last = String::new();
        let found = eventually_or(&what, READY_WITHIN, &mut last, async |last: &mut String| {
            let answer = self.readyz().await;
            *last = format!(
                "{:?}",
                answer.as_ref().map(|answer| (answer.status, &answer.body))
            );
            answer.ok().filter(|answer| answer.status == status)
        });
        found.await
    }

    /// SIGKILL. Returns when the process is gone.
    pub(crate) async fn kill(&mut self) {
        self.child
            .take()
            .expect("a running service")
            .kill()
            .await
            .unwrap();
    }

    /// Sends another signal, by name.
    pub(crate) async fn signal(&self, signal: &str) {
        let pid = self.pid();
        // The shell's own `kill`: a system need not have another.
        let sent = Command::new("sh")
            .args(["-c", "kill -s \"$0\" \"$1\"", signal, &pid.to_string()])
            .status()
            .await
            .unwrap();
        assert!(sent.success(), "kill -s {signal} {pid}: {sent}");
    }

    /// Waits for the end of the process.
    pub(crate) async fn exits_within(&mut self, bound: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("a running service");
        match tokio::time::timeout(bound, child.wait()).await {
            Ok(status) => status.unwrap(),
            Err(_) => panic!("relayforge-{} still runs after {bound:?}", self.name),
        }
    }

    /// All it has written.
    pub(crate) fn log(&self) -> String {
        self.log_from(0)
    }

    /// What it has written from that byte on.
    fn log_from(&self, byte: u64) -> String {
        let mut written = Vec::new();
        if let Ok(mut log) = File::open(self.log_path()) {
            log.seek(SeekFrom::Start(byte)).unwrap();
            log.read_to_end(&mut written).unwrap();
        }
        String::from_utf8_lossy(&written).into_owned()
    }

    /// The last lines, for a person.
    pub(crate) fn log_end(&self) -> String {
        let log = self.log();
        // The probes of those who wait would hide the rest.
        let lines: Vec<&str> = log.lines().filter(|line| !line.contains("\"/readyz\"")).collect();
        let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
        format!(
            "--- the last lines of {}\n{}\n",
            self.log_path().display(),
            shown.join("\n")
        )
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.log_end());
        }
    }
}
