//! Job kind `chaos`: fails as its event asks for, to show and to test what the rest does about it.
//!
//! The event's `data` is an object of these, all optional:
//! `sleep_ms` waits first, on every attempt; then, on attempts before `fail_until_attempt` (without it: on every one),
//! the first of `exit` (ends the process with that code), `panic`, `permanent` that is there. Where none of the three
//! is, attempts before `fail_until_attempt` fail and may be retried. All others succeed.

use std::time::Duration;

use observability::AppEnv;
use serde::Deserialize;

use crate::outcome::Outcome;
use crate::registry::{JobContext, JobFuture, JobHandler};

/// Longest sleep that is obeyed, in milliseconds.
const MAX_SLEEP_MS: u64 = 600_000;

/// Misbehaves on demand. In production it gives every job up: whoever can send an event could end the process.
#[derive(Debug, Clone, Copy)]
pub struct Chaos {
    allowed: bool,
}

impl Chaos {
    /// Obeys in development only.
    #[must_use]
    pub fn new(app_env: AppEnv) -> Self {
        Self {
            allowed: app_env == AppEnv::Development,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    #[serde(default)]
    sleep_ms: u64,
    fail_until_attempt: Option<i32>,
    exit: Option<u8>,
    #[serde(default)]
    panic: bool,
    #[serde(default)]
    permanent: bool,
}

/// What is left to do after the sleep.
#[derive(Debug, PartialEq, Eq)]
enum Act {
    Exit(u8),
    Panic,
    Fail,
    Retry,
    Succeed,
}

impl Wish {
    fn act(&self, attempt: i32) -> Act {
        let misbehaves = self.fail_until_attempt.is_none_or(|until| attempt < until);
        match self {
            _ if !misbehaves => Act::Succeed,
            Self { exit: Some(code), .. } => Act::Exit(*code),
            Self { panic: true, .. } => Act::Panic,
            Self { permanent: true, .. } => Act::Fail,
            Self {
                fail_until_attempt: Some(_),
                ..
            } => Act::Retry,
            _ => Act::Succeed,
        }
    }
}

impl JobHandler for Chaos {
    fn kind(&self) -> &'static str {
        "chaos"
    }

    fn run(&self, job: JobContext) -> JobFuture<'_> {
        Box::pin(async move {
            if !self.allowed {
                return Outcome::failed("job kind \"chaos\" is refused unless APP_ENV=development");
            }
            let wish = match serde_json::from_str::<Option<Wish>>(job.event.data.get()) {
                Ok(wish) => wish.unwrap_or_default(),
                Err(error) => return Outcome::failed(format_args!("data: {error}")),
            };
            // Each run says that it has begun, so that a test can count them.
            tracing::info!("chaos: obeying");
            tokio::time::sleep(Duration::from_millis(wish.sleep_ms.min(MAX_SLEEP_MS))).await;
            obey(&wish.act(job.attempt), job.attempt)
        })
    }
}

#[expect(clippy::panic, reason = "that is what was asked for")]
fn obey(act: &Act, attempt: i32) -> Outcome {
    match act {
        Act::Exit(code) => {
            tracing::warn!(exit.code = code, "chaos: ending the process");
            std::process::exit(i32::from(*code))
        }
        Act::Panic => panic!("chaos: panic in attempt {attempt}"),
        Act::Fail => Outcome::failed(format_args!("chaos: permanent failure in attempt {attempt}")),
        Act::Retry => Outcome::retry(format_args!("chaos: failure in attempt {attempt}")),
        Act::Succeed => Outcome::Succeeded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wish_is_obeyed_on_the_attempts_it_names() {
        for (data, acts) in [
            ("{}", [Act::Succeed, Act::Succeed]),
            ("null", [Act::Succeed, Act::Succeed]),
            (r#"{"sleep_ms":5}"#, [Act::Succeed, Act::Succeed]),
            (r#"{"fail_until_attempt":2}"#, [Act::Retry, Act::Succeed]),
            (r#"{"fail_until_attempt":3}"#, [Act::Retry, Act::Retry]),
            (r#"{"permanent":true}"#, [Act::Fail, Act::Fail]),
            (r#"{"panic":true}"#, [Act::Panic, Act::Panic]),
            (
                r#"{"panic":true,"fail_until_attempt":2}"#,
                [Act::Panic, Act::Succeed],
            ),
            (
                r#"{"exit":3,"panic":true,"fail_until_attempt":2}"#,
                [Act::Exit(3), Act::Succeed],
            ),
        ] {
            let wish = serde_json::from_str::<Option<Wish>>(data)
                .unwrap()
                .unwrap_or_default();
            assert_eq!([wish.act(1), wish.act(2)], acts, "{data}");
        }
    }
}
