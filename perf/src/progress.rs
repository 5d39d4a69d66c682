//! How far a long run is, on a terminal; nothing in a log.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on standard error that goes with its drop.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A bar that is full after `length`.
    pub(crate) fn new(what: &'static str, length: Duration) -> Self {
        let milliseconds = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        let bar = ProgressBar::new(milliseconds).with_prefix(what);
        let style = ProgressStyle::with_template("{prefix} [{bar:40}] {elapsed}/{msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self(bar)
    }

    /// So long has it run, and so many are done.
    pub(crate) fn at(&self, elapsed: Duration, done: u64) {
        self.0
            .set_position(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        let seconds = self.0.length().unwrap_or_default() / 1_000;
        self.0.set_message(format!("{seconds}s  {done} done"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Says on standard error how far a long command is: standard output is for its report.
#[expect(clippy::print_stderr, reason = "a long command that says nothing looks dead")]
pub(crate) fn say(text: &str) {
    eprintln!("{}  {text}", chrono::Utc::now().format("%H:%M:%S"));
}
