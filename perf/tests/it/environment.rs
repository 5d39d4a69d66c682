//! `.env.example` and the binaries' `--help` name the same settings, and the file as it is configures each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::binaries::binary;

const BINARIES: [&str; 4] = ["api", "relay", "consumer", "migrate"];

const EXAMPLE: &str = include_str!("../../../.env.example");

/// Settings by name, those that are commented out included.
fn example() -> BTreeMap<&'static str, (&'static str, bool)> {
    EXAMPLE
        .lines()
        .filter_map(|line| {
            let set = !line.starts_with('#');
            let (name, value) = line.trim_start_matches('#').split_once('=')?;
            let is_name = name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
            is_name.then_some((name, (value, set)))
        })
        .collect()
}

/// The binary with these settings, and none of the environment that the test itself runs in.
fn command(name: &str, settings: &BTreeMap<&str, &str>) -> Command {
    let mut command = Command::new(binary(name));
    command
        .env_clear()
        .current_dir(std::env::temp_dir())
        .envs(settings);
    command
}

fn settings_of(name: &str) -> BTreeSet<String> {
    let output = command(name, &BTreeMap::new()).arg("--help").output().unwrap();
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    help.split("[env: ")
        .skip(1)
        .map(|rest| rest.split([']', '=']).next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn the_example_has_what_the_binaries_know_and_nothing_else() {
    let example: BTreeSet<String> = example().into_keys().map(str::to_owned).collect();
    let known: BTreeSet<String> = BINARIES.iter().flat_map(|name| settings_of(name)).collect();
    assert!(known.len() > 40, "{known:?}");
    assert_eq!(example, known);
}

#[test]
fn the_example_configures_each_binary() {
    let all = example();
    let set = all
        .iter()
        .filter(|(_, (_, set))| *set)
        .map(|(name, (value, _))| (*name, *value));
    // Once as it is, once with every default written out: the file must not lie about them.
    let with_defaults = all
        .iter()
        .filter(|(_, (value, _))| !value.is_empty())
        .map(|(name, (value, _))| (*name, *value));
    for settings in [set.collect::<BTreeMap<_, _>>(), with_defaults.collect()] {
        for name in BINARIES {
            let output = command(name, &settings).arg("--check-config").output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{name}: {said}");
            assert_eq!(String::from_utf8_lossy(&output.stdout), "configuration ok\n");
        }
    }
    let mut production: BTreeMap<_, _> = all.iter().map(|(name, (value, _))| (*name, *value)).collect();
    production.insert("APP_ENV", "production");
    production.retain(|_, value| !value.is_empty());
    let output = command("api", &production)
        .arg("--check-config")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("development secret"), "{said}");
}

#[test]
fn the_defaults_of_the_example_are_the_binaries() {
    for name in BINARIES {
        let output = command(name, &BTreeMap::new()).arg("--help").output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        for (setting, (value, set)) in example() {
            // LOG__FILTER's default is long; the example shows the short form.
            if set || value.is_empty() || setting == "LOG__FILTER" {
                continue;
            }
            let Some((_, after)) = help.split_once(&format!("[env: {setting}]")) else {
                continue;
            };
            let described = after.split("--").next().unwrap_or_default();
            assert!(
                described.contains(&format!("[default: {value}]")),
                "{name} {setting}: {described}"
            );
        }
    }
}
