//! The services' executables: those beside the test's own, or in the folder that `RELAYFORGE_TEST_BINARIES` names, one
//! of cargo's for another profile; built if one is missing or older than its sources.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// Executables by their short names, and the packages that they are of.
const EXECUTABLES: [(&str, &str); 4] = [
    ("api", "api"),
    ("relay", "relay"),
    ("consumer", "consumer"),
    ("migrate", "sql"),
];

/// The path of an executable.
pub(crate) fn binary(service: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = chosen_folder().unwrap_or_else(|| {
            let test = std::env::current_exe().unwrap();
            test.parent().unwrap().parent().unwrap().to_owned()
        });
        build_if_needed(&folder);
        folder
    });
    folder.join(format!("relayforge-{service}"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test's own setting, which no service reads"
)]
fn chosen_folder() -> Option<PathBuf> {
    std::env::var_os("RELAYFORGE_TEST_BINARIES").map(PathBuf::from)
}

/// A test run of this package alone builds no other package's executables: without this it would test old ones.
fn build_if_needed(folder: &Path) {
    let stale: Vec<&str> = EXECUTABLES
        .into_iter()
        .filter(|(name, _)| !is_fresh(folder, name))
        .map(|(_, package)| package)
        .collect();
    if stale.is_empty() {
        return;
    }
    println!("building {stale:?}: missing, or older than the sources");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--bins", "--target-dir"])
        .arg(folder.parent().unwrap());
    cargo.args(stale.iter().flat_map(|package| ["-p", package]));
    match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") => {}
        Some(profile) => drop(cargo.args(["--profile", profile])),
        None => panic!("{} is no folder of cargo's", folder.display()),
    }
    let status = cargo
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .status()
        .unwrap();
    assert!(status.success(), "cargo build of {stale:?}: {status}");
}

/// Whether nothing that cargo lists as its source is newer. Cargo writes that list beside the executable.
fn is_fresh(folder: &Path, service: &str) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let built: Option<SystemTime> = modified(&folder.join(format!("relayforge-{service}")));
    let list = fs::read_to_string(folder.join(format!("relayforge-{service}.d")));
    let (Some(built), Ok(list)) = (built, list) else {
        return false;
    };
    let sources = list.split_once(": ").map_or("", |(_, sources)| sources);
    sources
        .split_whitespace()
        .all(|source| modified(Path::new(source)).is_some_and(|changed| changed <= built))
}
