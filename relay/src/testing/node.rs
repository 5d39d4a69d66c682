//! A RabbitMQ node of a test's own: stopped, killed, frozen, alarmed, emptied and started again as the test likes, at the
//! same port. It goes with the value, and with the test should nobody be left to stop it.
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test that has no server cannot go on"
)]

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sql::testing::server::{dies_with_us, free_port, signal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::RABBITMQ;

/// How long a node may take to start or to stop, on a machine that does something else meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a greeting may take before it is asked for again.
const GREETED_WITHIN: Duration = Duration::from_secs(1);

/// How often what is waited for is looked at.
const POLL_EVERY: Duration = Duration::from_millis(50);

/// Where RabbitMQ's server program is; none if it is not installed, or if tests are to do without. Not Debian's wrapper
/// in `/usr/sbin`, which insists on being root or rabbitmq.
#[expect(clippy::disallowed_methods, reason = "this is where tests are configured")]
pub fn program() -> Option<PathBuf> {
    if std::env::var("RELAYFORGE_TEST_SERVERS").is_ok_and(|servers| servers == "none") {
        return None;
    }
    let path = std::env::var_os("PATH");
    let folders = path.iter().flat_map(std::env::split_paths);
    let installed = [PathBuf::from("/usr/lib/rabbitmq/bin")]
        .into_iter()
        .chain(folders);
    installed
        .filter_map(|folder| folder.join("rabbitmq-server").canonicalize().ok())
        .find(|program| program.to_string_lossy().contains("/rabbitmq_server-"))
}

/// A node, running or not, and the port mapper that only it uses.
pub struct Node {
    program: PathBuf,
    folder: PathBuf,
    name: String,
    password: String,
    port: u16,
    epmd_port: u16,
    dist_port: u16,
    epmd: Child,
    running: Option<Child>,
}

impl Node {
    /// A node without data, not started yet.
    pub fn create(program: &Path) -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let folder = std::env::temp_dir().join(format!("relayforge_node_{id}"));
        fs::create_dir(&folder).expect("the temporary folder is writable");
        let (port, epmd_port, dist_port) = (free_port(), free_port(), free_port());
        let write = |name: &str, text: &str, mode| {
            let file = folder.join(name);
            fs::write(&file, text).expect("a folder of ours");
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("a file of ours");
        };
        write(".erlang.cookie", &id, 0o400);
        write("enabled_plugins", "[].\n", 0o600);
        let password = uuid::Uuid::new_v4().simple().to_string();
        let config = format!(
            "listeners.tcp.local = 127.0.0.1:{port}\ndefault_user = relayforge\ndefault_pass = {password}\n"
        );
        write("rabbitmq.conf", &config, 0o600);
        let name = format!("relayforge_{}@localhost", &id[..12]);
        let mut epmd = command(&folder, &name, epmd_port, dist_port, Path::new("epmd"));
        let epmd = epmd.spawn().expect("epmd comes with Erlang");
        Self {
            program: program.to_owned(),
            folder,
            name,
            password,
            port,
            epmd_port,
            dist_port,
            epmd,
            running: None,
        }
    }

    /// Where it is, also while it does not run.
    pub fn url(&self) -> String {
        format!("amqp://relayforge:{}@127.0.0.1:{}/%2f", self.password, self.port)
    }

    /// Starts it on the data it has, and waits until it greets. To be called on a thread that lasts as long as the node
    /// is to.
    pub async fn start(&mut self) {
        assert!(self.running.is_none(), "it runs already");
        self.running = Some(
            self.command(&self.program)
                .spawn()
                .expect("a program that is there"),
        );
        let deadline = Instant::now() + PATIENCE;
        while tokio::time::timeout(GREETED_WITHIN, self.greets()).await != Ok(Some(true)) {
            let child = self.running.as_mut().expect("it was just started");
            let over = child.try_wait().expect("a child of ours");
            assert!(
                over.is_none() && Instant::now() < deadline,
                "{over:?}: {}",
                self.log()
            );
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    async fn greets(&self) -> Option<bool> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        socket.write_all(RABBITMQ.hello).await.ok()?;
        Some(RABBITMQ.replies.contains(&socket.read_u8().await.ok()?))
    }

    /// Stops it in an orderly way.
    pub async fn stop(&mut self) {
        self.end("TERM").await;
    }

    /// SIGKILL. What it has confirmed is on disk.
    pub async fn kill(&mut self) {
        self.end("KILL").await;
    }

    async fn end(&mut self, how: &str) {
        let mut child = self.running.take().expect("a node that runs");
        signal(how, &[child.id()]);
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().expect("a child of ours").is_none() {
            assert!(Instant::now() < deadline, "it still runs: {}", self.log());
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// Freezes it.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        signal(name, &self.running.iter().map(Child::id).collect::<Vec<_>>());
    }

    /// Removes all its data, as the loss of its disk would. It must not run.
    pub fn wipe(&self) {
        assert!(self.running.is_none(), "it runs");
        fs::remove_dir_all(self.folder.join("mnesia")).expect("it has had data");
    }

    /// Has it take its memory for full, or not any more: it reads from no connection that publishes meanwhile.
    pub fn alarm(&self, full: bool) {
        let watermark: &[&str] = if full { &["absolute", "1MB"] } else { &["0.4"] };
        let program = self.program.with_file_name("rabbitmqctl");
        let status = self
            .command(&program)
            .args(["-n", &self.name, "set_vm_memory_high_watermark"])
            .args(watermark)
            .status();
        assert!(status.is_ok_and(|status| status.success()), "{}", self.log());
    }

    fn command(&self, program: &Path) -> Command {
        command(&self.folder, &self.name, self.epmd_port, self.dist_port, program)
    }

    /// What it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

/// A program that sees nothing but what the node and its tools are to see; what it says goes to a log.
fn command(folder: &Path, name: &str, epmd_port: u16, dist_port: u16, program: &Path) -> Command {
    let mut words = dies_with_us();
    words.push(program.to_string_lossy().into_owned());
    let mut command = Command::new(&words[0]);
    let log = File::options().create(true).append(true).open(folder.join("log"));
    let log = log.expect("a folder of ours");
    let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
    #[expect(clippy::disallowed_methods, reason = "programs are found as we were")]
    let programs = std::env::var_os("PATH").unwrap_or_default();
    let environment = [
        ("LANG", "C.UTF-8".to_owned()),
        ("HOME", path("")),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
        ("ERL_EPMD_PORT", epmd_port.to_string()),
        ("ERL_CRASH_DUMP_SECONDS", "0".to_owned()),
        // Makes the start script become the node, so that the process we hold is the node's.
        ("RUNNING_UNDER_SYSTEMD", "true".to_owned()),
        ("RABBITMQ_CONF_ENV_FILE", path("none")),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", path("none.config")),
        ("RABBITMQ_NODENAME", name.to_owned()),
        ("RABBITMQ_DIST_PORT", dist_port.to_string()),
        ("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins")),
        ("RABBITMQ_MNESIA_BASE", path("mnesia")),
        ("RABBITMQ_PLUGINS_EXPAND_DIR", path("plugins")),
        ("RABBITMQ_GENERATED_CONFIG_DIR", path("config")),
        ("RABBITMQ_LOG_BASE", path("logs")),
        ("RABBITMQ_LOGS", "-".to_owned()),
        ("RABBITMQ_SCHEDULER_BIND_TYPE", "u".to_owned()),
        (
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}".to_owned(),
        ),
    ];
    command
        .args(&words[1..])
        .env_clear()
        .env("PATH", programs)
        .envs(environment)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("an open file"))
        .stderr(log);
    command
}

impl Drop for Node {
    fn drop(&mut self) {
        for child in self.running.iter_mut().chain([&mut self.epmd]) {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}
