//! A timer that goes off when it should: some tens of microseconds late, where the runtime's rounds up to a millisecond.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A timer of the kernel's. (`timerfd_create(2)`: epoll tells of it at once, while a time-out of epoll itself counts in
/// milliseconds.)
#[derive(Debug)]
pub(super) struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    /// A timer that is not set. Needs a runtime.
    ///
    /// # Errors
    /// If there are too many open files.
    #[expect(
        deprecated,
        reason = "its successor is unsafe, as it trusts that the descriptor stays open and the same: an `OwnedFd`'s does"
    )]
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self(AsyncFd::with_interest(timer, Interest::READABLE)?))
    }

    /// Waits; for one at a time.
    ///
    /// # Errors
    /// None: the timer exists, and no time is too far for it.
    pub(super) async fn wait_until(&mut self, due: Instant) -> io::Result<()> {
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let setting = Itimerspec {
                it_interval: Timespec::default(),
                it_value: timespec(left)?,
            };
            timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &setting)?;
            // The count of times that it went off is not read: setting it anew forgets it.
            self.0.readable().await?.clear_ready();
        }
    }
}

fn timespec(duration: Duration) -> io::Result<Timespec> {
    Timespec::try_from(duration).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_never_early() {
        let mut alarm = Alarm::new().unwrap();
        for micros in [0, 1, 900, 2_300] {
            let due = Instant::now() + Duration::from_micros(micros);
            alarm.wait_until(due).await.unwrap();
            assert!(Instant::now() >= due, "{micros}");
        }
        alarm
            .wait_until(Instant::now() - Duration::from_secs(1))
            .await
            .unwrap();
    }
}
