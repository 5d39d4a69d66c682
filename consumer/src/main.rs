//! `relayforge-consumer`: the built-in job kinds. A team with kinds of its own has a program like this one with them in
//! it: `docs/handlers.md`.

use std::process::ExitCode;

fn main() -> ExitCode {
    consumer::main(|built_in| built_in)
}
