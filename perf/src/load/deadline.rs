//! A deadline that moves with each request, and nearly always before it passes.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep_until};

/// A deadline of one connection.
///
/// To move it is to note it: the runtime's timer stays where it was and is set anew when it goes off, once in so many
/// seconds and not for each request.
#[derive(Debug)]
pub(super) struct Deadline {
    at: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Deadline {
    /// A deadline that has passed. Needs a runtime.
    pub(super) fn passed() -> Self {
        let at = Instant::now();
        Self {
            at,
            timer: Box::pin(sleep_until(at.into())),
        }
    }

    /// Moves it: to a later time than before.
    pub(super) fn move_to(&mut self, from_now: Duration) {
        self.at = Instant::now() + from_now;
    }

    /// When it passes.
    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// Whether it has passed; if not, the task is woken in time.
    pub(super) fn poll_passed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(context));
            if Instant::now() >= self.at {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(self.at.into());
        }
    }
}
