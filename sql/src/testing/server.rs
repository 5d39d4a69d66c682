//! A PostgreSQL server of a test's own: stopped, killed, frozen and started again as the test likes, at the same port
//! and with the same data. It goes with the value, and with the test should nobody be left to stop it.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr as _;
use std::time::{Duration, Instant};

use tokio_postgres::Client;
use url::Url;
use uuid::Uuid;

use crate::{Secret, pool};

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often what is waited for is looked at.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// Oldest major version that we support.
pub const OLDEST: u32 = 15;

/// Where PostgreSQL's programs are, newest first; none if there are none, or if tests are to do without.
#[expect(clippy::disallowed_methods, reason = "this is where tests are configured")]
pub fn programs() -> Option<PathBuf> {
    if std::env::var("RELAYFORGE_TEST_SERVERS").is_ok_and(|servers| servers == "none") {
        return None;
    }
    let mut folders: Vec<PathBuf> = std::env::var_os("PATH")
        .iter()
        .flat_map(std::env::split_paths)
        .collect();
    if let Ok(installed) = std::fs::read_dir("/usr/lib/postgresql") {
        folders.extend(installed.flatten().map(|version| version.path().join("bin")));
    }
    let major = |folder: &Path| -> Option<u32> {
        let complete = ["initdb", "postgres", "pg_basebackup"]
            .iter()
            .all(|program| folder.join(program).is_file());
        let output = complete
            .then(|| Command::new(folder.join("postgres")).arg("-V").output().ok())
            .flatten()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let version = text.split(") ").nth(1)?;
        version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    folders
        .into_iter()
        .filter_map(|folder| Some((major(&folder)?, folder)))
        .filter(|(major, _)| *major >= OLDEST)
        .max()
        .map(|(_, folder)| folder)
}

/// The words before a command that let it die with the thread that started it; none where the system has not got them.
pub fn dies_with_us() -> Vec<String> {
    if Command::new("setpriv").arg("--version").output().is_ok() {
        ["setpriv", "--pdeathsig", "KILL"].map(str::to_owned).into()
    } else {
        Vec::new()
    }
}

/// Signals processes by name of the signal. Those that are gone are no error.
pub fn signal(signal: &str, pids: &[u32]) {
    for pid in pids {
        // The shell's own `kill`: a system need not have another.
        let _ = Command::new("sh")
            .args([
                "-c",
                "kill -s \"$0\" \"$1\" 2>/dev/null",
                signal,
                &pid.to_string(),
            ])
            .status();
    }
}

/// A port of the loopback that nobody has now, below those that the kernel gives to connections.
pub fn free_port() -> u16 {
    (0..1_000)
        .map(|_| rand::random_range(20_000..32_000))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

fn number(program: &mut Command) -> Option<u32> {
    let output = program.output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// A server, running or not.
pub struct Server {
    programs: PathBuf,
    folder: PathBuf,
    /// Puts a command under PostgreSQL's own user, because it refuses to run as root. What it starts dies with this
    /// thread.
    runner: Vec<String>,
    password: String,
    port: u16,
    running: Option<Child>,
}

impl Server {
    /// A server with empty data, not started yet.
    pub fn initialise(programs: &Path) -> Self {
        let server = Self::in_new_folder(programs, Uuid::new_v4().simple().to_string());
        // Through a file of our own making: a password among the arguments is everybody's to read.
        let file = server.folder.join("password");
        std::fs::write(&file, &server.password).expect("the temporary folder is writable");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("a file of ours");
        let options = [
            "--username=postgres",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ];
        let mut pwfile = std::ffi::OsString::from("--pwfile=");
        pwfile.push(&file);
        server.run(server.command("initdb").args(options).arg(pwfile));
        server
    }

    /// A standby of this server, which runs; not started yet.
    pub fn back_up(&self) -> Self {
        let standby = Self::in_new_folder(&self.programs, self.password.clone());
        let options = ["-R", "-X", "stream", "-c", "fast", "--no-sync"];
        let from = ["-h", "127.0.0.1", "-U", "postgres", "-p", &self.port.to_string()];
        standby.run(standby.command("pg_basebackup").args(options).args(from));
        standby
    }

    fn in_new_folder(programs: &Path, password: String) -> Self {
        let folder = std::env::temp_dir().join(format!("relayforge_server_{}", Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).expect("the temporary folder is writable");
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).expect("a folder of ours");
        let mut runner = dies_with_us();
        if number(Command::new("id").arg("-u")) == Some(0) {
            let (user, uid) = ["postgres", "nobody"]
                .into_iter()
                .find_map(|user| Some((user, number(Command::new("id").args(["-u", user]))?)))
                .expect("root has somebody to run PostgreSQL as");
            let gid = number(Command::new("id").args(["-g", user])).expect("a user has a group");
            chown(&folder, Some(uid), Some(gid)).expect("root may");
            runner.extend([
                format!("--reuid={uid}"),
                format!("--regid={gid}"),
                "--clear-groups".to_owned(),
            ]);
        }
        Self {
            programs: programs.to_owned(),
            folder,
            runner,
            password,
            port: free_port(),
            running: None,
        }
    }

    /// A command on the data; what it says goes to a log beside them.
    fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        let mut command = match self.runner.split_first() {
            Some((runner, words)) => {
                let mut command = Command::new(runner);
                command.args(words).arg("--").arg(program);
                command
            }
            None => Command::new(program),
        };
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))
            .expect("a folder of ours");
        command
            .arg("-D")
            .arg(self.data())
            .current_dir(&self.folder)
            .env("PGPASSWORD", &self.password)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("an open file"))
            .stderr(log);
        command
    }

    fn run(&self, command: &mut Command) {
        let done = command.status().is_ok_and(|status| status.success());
        assert!(done, "{command:?}: {}", self.log());
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// What its programs have said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Starts it, on the data and at the port it had, and waits until it takes connections. To be called on a thread
    /// that lasts as long as the server is to.
    pub async fn start(&mut self) {
        assert!(self.running.is_none(), "it runs already");
        let mut command = self.command("postgres");
        for setting in [
            &format!("port={}", self.port),
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            // Only the machine's own fall would lose what is not synced; a killed server loses nothing.
            "fsync=off",
            "shared_buffers=32MB",
            "max_connections=120",
            "max_locks_per_transaction=256",
            "hot_standby_feedback=on",
            "wal_receiver_status_interval=1s",
        ] {
            command.args(["-c", setting]);
        }
        self.running = Some(command.spawn().expect("a program that is there"));
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = pool::connect_one(&self.url("postgres"), "relayforge-test").await {
            assert!(Instant::now() < deadline, "{error}: {}", self.log());
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// Stops it as an operator would in a hurry: sessions are ended, what is committed is kept.
    pub async fn stop(&mut self) {
        signal("INT", &self.postmaster());
        self.ended().await;
    }

    /// SIGKILL of all its processes. The next start recovers.
    pub async fn kill(&mut self) {
        // Stopped first: a postmaster would start anew whom it sees die.
        let mut pids = self.postmaster();
        signal("STOP", &pids);
        pids.extend(self.children());
        signal("KILL", &pids);
        self.ended().await;
    }

    /// Freezes all its processes.
    pub fn freeze(&self) {
        let postmaster = self.postmaster();
        signal("STOP", &postmaster);
        signal("STOP", &self.children());
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        signal("CONT", &self.children());
        signal("CONT", &self.postmaster());
    }

    fn postmaster(&self) -> Vec<u32> {
        self.running.as_ref().map(Child::id).into_iter().collect()
    }

    /// Its processes but for the postmaster. Each is a child of that one, also when it has become a stranger's.
    fn children(&self) -> Vec<u32> {
        let Some(postmaster) = self.running.as_ref().map(Child::id) else {
            return Vec::new();
        };
        let of_ours = |pid: &u32| {
            let folder = std::fs::read_link(format!("/proc/{pid}/cwd"));
            *pid != postmaster && folder.is_ok_and(|folder| folder == self.data())
        };
        let processes = std::fs::read_dir("/proc").expect("a Linux system");
        processes
            .flatten()
            .filter_map(|process| process.file_name().to_str()?.parse().ok())
            .filter(of_ours)
            .collect()
    }

    /// Waits until the last of its processes is gone: another can't start before.
    async fn ended(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let child = self.running.as_mut().expect("a server that runs");
            let over = child.try_wait().expect("a child of ours").is_some();
            if over && self.children().is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "it still runs: {}", self.log());
            tokio::time::sleep(POLL_EVERY).await;
        }
        self.running = None;
        // Of a killed one; the number in it may be another's by now.
        let _ = std::fs::remove_file(self.data().join("postmaster.pid"));
    }

    /// Where it is, for a login with the password that all logins of this server have.
    pub fn url(&self, role: &str) -> Secret {
        Secret::from_str(&self.text(role)).expect("infallible")
    }

    /// The same for its superuser, of whom everything here is.
    pub fn superuser_url(&self) -> Url {
        Url::parse(&self.text("postgres")).expect("a URL")
    }

    fn text(&self, role: &str) -> String {
        format!(
            "postgres://{role}:{}@127.0.0.1:{}/postgres",
            self.password, self.port
        )
    }

    /// Password of all logins.
    pub fn password(&self) -> Secret {
        Secret::from_str(&self.password).expect("infallible")
    }

    /// A connection as its superuser.
    pub async fn superuser(&self) -> Client {
        pool::connect_one(&self.url("postgres"), "relayforge-test")
            .await
            .expect("a server that runs")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing of it is kept but its shared memory, which only the server itself gives back.
        self.thaw();
        signal("QUIT", &self.postmaster());
        if let Some(server) = &mut self.running {
            let _ = server.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
