//! What a webhook costs the API's processor before the database is asked, in instructions, which a busy machine does not
//! change: `relayforge-perf hot-path --count` under valgrind. `perf/README.md` says how to read a failure, and when to
//! raise a bound.
//!
//! The executable is the one that tests are built with, unoptimised: our own code takes many times the instructions of a
//! release. They can be compared with each other all the same: one more look at the body, one more copy or allocation is
//! seen. The HMAC itself is assembler in either, and another one on another processor: so verifying is counted over the
//! bare HMAC of the same body, which the sender makes in the same run, and no ratio is taken, in which our own part would
//! be small for long bodies.

use std::path::Path;
use std::process::Command;

use crate::faults::skipped;

/// Webhooks of a run. One costs what the other does: a few do.
const WEBHOOKS: u32 = 20;

// Bounds are a tenth above what was measured. Where one is exceeded, perf/README.md says what to do ("What may not become
// dearer").

/// Verifying a signature, over the bare HMAC, whatever the body. Measured: 16,487; a second HMAC is 28,000 or more.
const VERIFY: u64 = 18_100;

/// Reading a webhook and picking the headers to be stored, by bytes of its body. Measured: 132,000, 259,000
/// and 769,000, less than a hundredth up or down.
const READ: [(u32, u64); 3] = [(256, 145_000), (1_024, 285_000), (4_096, 845_000)];

/// What callgrind has written, with all names in full.
struct Profile(String);

impl Profile {
    /// Of a run with bodies of that size.
    fn take(body_bytes: u32) -> Self {
        let name = format!("callgrind-{}-{body_bytes}", std::process::id());
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--compress-strings=no", "--compress-pos=no"])
            .arg(format!("--callgrind-out-file={}", file.display()))
            .arg(env!("CARGO_BIN_EXE_relayforge-perf"))
            .args(["hot-path", "--count", &WEBHOOKS.to_string()])
            .args(["--payload-bytes", &body_bytes.to_string()])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let profile = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        Self(profile)
    }

    /// Instructions between call and return, where one function calls another; both by how their names begin.
    fn instructions(&self, caller: &str, callee: &str) -> u64 {
        let mut found = 0;
        let (mut is_caller, mut is_callee) = (false, false);
        let mut lines = self.0.lines();
        while let Some(line) = lines.next() {
            if let Some(function) = line.strip_prefix("fn=") {
                is_caller = function.starts_with(caller);
            } else if let Some(function) = line.strip_prefix("cfn=") {
                is_callee = function.starts_with(callee);
            } else if line.starts_with("calls=") {
                // What they cost is on the next line, after their position.
                let cost = lines.next().unwrap().rsplit(' ').next().unwrap();
                if is_caller && is_callee {
                    found += cost.parse::<u64>().unwrap();
                }
            }
        }
        assert!(
            found > 0,
            "{caller} does not call {callee}: has one been renamed?"
        );
        found
    }
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "the bounds are of unoptimised code")]
fn a_webhook_costs_the_processor_no_more_than_it_did() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        let test = "a_webhook_costs_the_processor_no_more_than_it_did";
        return skipped(
            test,
            "no valgrind: sudo apt-get install -y --no-install-recommends valgrind",
        );
    }
    let profiles = std::thread::scope(|scope| {
        READ.map(|(body_bytes, bound)| (body_bytes, bound, scope.spawn(move || Profile::take(body_bytes))))
            .map(|(body_bytes, bound, taken)| (body_bytes, bound, taken.join().unwrap()))
    });
    let mut dearer = Vec::new();
    for (body_bytes, read_bound, profile) in profiles {
        let each = |callee| profile.instructions("perf::hot_path::work", callee) / u64::from(WEBHOOKS);
        let bare = profile.instructions("perf::hot_path::work", "ring::hmac::sign");
        let verify = each("api::signature::verify");
        for (what, found, bound) in [
            ("verify, over the bare HMAC", verify.saturating_sub(bare), VERIFY),
            ("read", each("sql::event::"), read_bound),
        ] {
            println!("{body_bytes:>5} bytes, {what:<26} {found:>8} instructions, at most {bound}");
            if found > bound {
                dearer.push((body_bytes, what));
            }
        }
    }
    assert!(
        dearer.is_empty(),
        "dearer than before: {dearer:?}; perf/README.md says what to do"
    );
}
