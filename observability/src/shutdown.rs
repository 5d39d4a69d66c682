//! The one signal that a process is to end.
//!
//! Owns when it comes. What then happens, and in which order, each service's `main.rs` decides.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled at the first SIGTERM or SIGINT; later ones change nothing, so that a Ctrl-C
/// which reaches a whole process group does not cut a service's draining short. Call inside tokio.
///
/// A signal that comes after this returns is not lost. One that can't be listened to is logged and keeps
/// its default effect.
pub fn token() -> CancellationToken {
    let token = CancellationToken::new();
    for (name, kind) in [
        ("SIGTERM", SignalKind::terminate()),
        ("SIGINT", SignalKind::interrupt()),
    ] {
        match signal(kind) {
            Ok(stream) => {
                tokio::spawn(cancel_at(stream, name, token.clone()));
            }
            Err(error) => tracing::error!(signal = name, %error, "can't listen for the signal"),
        }
    }
    token
}

async fn cancel_at(mut stream: Signal, name: &'static str, token: CancellationToken) {
    if stream.recv().await.is_some() && !token.is_cancelled() {
        tracing::info!(signal = name, "shutting down");
        token.cancel();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_signal_cancels_and_a_second_one_does_not_kill() {
        let token = token();
        for _ in 0..2 {
            let pid = std::process::id().to_string();
            let sent = tokio::process::Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .await
                .unwrap();
            assert!(sent.success());
            tokio::time::timeout(Duration::from_secs(5), token.cancelled())
                .await
                .unwrap();
        }
    }
}
