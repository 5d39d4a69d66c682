//! Embeds the files of `functions/` and `views/`, functions first, in path order, and has cargo look again when a
//! migration is added (refinery's macro alone does not).
#![expect(
    clippy::disallowed_methods,
    reason = "a build script is configured by cargo through the environment"
)]

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    for folder in ["migrations", "functions", "views"] {
        println!("cargo:rerun-if-changed={folder}");
    }
    let mut code = String::from("pub(crate) const FILES: &[(&str, &str)] = &[\n");
    for folder in ["functions", "views"] {
        for file in sql_files(&root.join(folder))? {
            let path = file.strip_prefix(&root)?.display().to_string();
            writeln!(
                code,
                "    ({path:?}, include_str!({:?})),",
                file.display().to_string()
            )?;
        }
    }
    code.push_str("];\n");
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("code_files.rs"), code)?;
    Ok(())
}

fn sql_files(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(sql_files(&path)?);
        } else if path.extension().is_some_and(|e| e == "sql") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
