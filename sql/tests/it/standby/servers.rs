//! Two PostgreSQL servers of a test's own, a primary and its standby, in a folder that goes with them.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::str::FromStr as _;
use std::time::{Duration, Instant};

use sql::migrate::{MigrateConfig, migrate};
use sql::{DatabaseConfig, Pool, Secret, pool};
use tokio_postgres::Client;
use uuid::Uuid;

/// How long a server may take to start, and a standby to catch up.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Oldest major version that we support.
pub(super) const OLDEST: u32 = 15;

/// Where PostgreSQL's programs are, newest first; none if there are none, or if tests are to do without.
pub(super) fn programs() -> Option<PathBuf> {
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

fn number(program: &mut Command) -> Option<u32> {
    let output = program.output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// Two servers, stopped and removed with the value.
pub(super) struct Servers {
    programs: PathBuf,
    folder: PathBuf,
    /// Puts a command under PostgreSQL's own user, because it refuses to run as root. What it starts dies with this
    /// thread, should nobody be left to stop it.
    runner: Vec<String>,
    password: String,
    running: Vec<Child>,
}

impl Servers {
    pub(super) fn new(programs: PathBuf) -> Self {
        let folder = std::env::temp_dir().join(format!("relayforge_standby_{}", Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
        let mut runner: Vec<String> = ["setpriv", "--pdeathsig", "KILL"].map(str::to_owned).into();
        if number(Command::new("id").arg("-u")) == Some(0) {
            let (user, uid) = ["postgres", "nobody"]
                .into_iter()
                .find_map(|user| Some((user, number(Command::new("id").args(["-u", user]))?)))
                .unwrap();
            let gid = number(Command::new("id").args(["-g", user])).unwrap();
            chown(&folder, Some(uid), Some(gid)).unwrap();
            runner.extend([
                format!("--reuid={uid}"),
                format!("--regid={gid}"),
                "--clear-groups".to_owned(),
            ]);
        }
        if Command::new("setpriv").arg("--version").output().is_ok() {
            runner.push("--".to_owned());
        } else {
            runner.clear();
        }
        Self {
            programs,
            folder,
            runner,
            password: Uuid::new_v4().simple().to_string(),
            running: Vec::new(),
        }
    }

    /// A command on the data folder of that name; what it says goes to a log beside it.
    fn command(&self, program: &str, data: &str) -> Command {
        let program = self.programs.join(program);
        let mut command = match self.runner.split_first() {
            Some((runner, words)) => {
                let mut command = Command::new(runner);
                command.args(words).arg(program);
                command
            }
            None => Command::new(program),
        };
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))
            .unwrap();
        command
            .arg("-D")
            .arg(self.folder.join(data))
            .current_dir(&self.folder)
            .env("PGPASSWORD", &self.password)
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        command
    }

    fn run(&self, command: &mut Command) {
        let done = command.status().unwrap().success();
        assert!(done, "{command:?}: {}", self.log());
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub(super) fn initialise(&self, data: &str) {
        // Through a file of our own making: a password among the arguments is everybody's to read.
        let file = self.folder.join("password");
        std::fs::write(&file, &self.password).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let options = [
            "--username=postgres",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ];
        let mut pwfile = std::ffi::OsString::from("--pwfile=");
        pwfile.push(&file);
        self.run(self.command("initdb", data).args(options).arg(pwfile));
    }

    pub(super) fn back_up(&self, from: u16, data: &str) {
        let options = [
            "-R",
            "-X",
            "stream",
            "-c",
            "fast",
            "--no-sync",
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
        ];
        self.run(
            self.command("pg_basebackup", data)
                .args(options)
                .args(["-p", &from.to_string()]),
        );
    }

    /// Starts a server and waits until it takes connections; answers with its port.
    pub(super) async fn start(&mut self, data: &str) -> u16 {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut command = self.command("postgres", data);
        for setting in [
            &format!("port={port}"),
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "fsync=off",
            "shared_buffers=16MB",
            "max_connections=30",
            "hot_standby_feedback=on",
            "wal_receiver_status_interval=1s",
        ] {
            command.args(["-c", setting]);
        }
        self.running.push(command.spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = pool::connect_one(&self.url(port, "postgres"), "relayforge-test").await {
            assert!(Instant::now() < deadline, "{data}: {error}: {}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        port
    }

    fn url(&self, port: u16, role: &str) -> Secret {
        let url = format!("postgres://{role}:{}@127.0.0.1:{port}/postgres", self.password);
        Secret::from_str(&url).unwrap()
    }

    pub(super) async fn superuser(&self, port: u16) -> Client {
        pool::connect_one(&self.url(port, "postgres"), "relayforge-test")
            .await
            .unwrap()
    }

    pub(super) fn pool(&self, port: u16, role: &str) -> Pool {
        let config = DatabaseConfig {
            url: self.url(port, role),
            max_connections: 4,
        };
        pool::connect(&config, "relayforge-test").unwrap()
    }

    pub(super) async fn migrate(&self, port: u16) {
        let password = || Some(Secret::from_str(&self.password).unwrap());
        let config = MigrateConfig {
            url: self.url(port, "postgres"),
            api_password: password(),
            relay_password: password(),
            consumer_password: password(),
            dba_password: password(),
        };
        migrate(&config).await.unwrap();
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for server in &mut self.running {
            // Nothing of it is kept, so nothing has to be shut down in an orderly way.
            let _ = server.kill();
            let _ = server.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
