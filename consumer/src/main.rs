//! `relayforge-consumer`: the built-in job kinds. A team with kinds of its own has a program like this one with them in
//! it: `docs/handlers.md`.

use std::process::ExitCode;

/// A job is some hundred small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    consumer::main(|built_in| built_in)
}
