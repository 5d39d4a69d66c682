//! Lines on their way to standard output: written together, by a thread of their own. A write for each line would cost a
//! busy service more than making the line does, and a reader that is slow would hold up whoever logs.
//!
//! A line is written a few milliseconds after it was logged; a process that is killed takes those of that time with it.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long lines wait for others.
const GATHER: Duration = Duration::from_millis(5);

/// Bytes that may wait. Beyond, whoever logs waits for the reader, as it would without us.
const MOST_WAITING: usize = 1 << 20;

/// Where lines go in. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Lines(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    /// Lines were taken and are being written.
    writing: bool,
    /// Somebody waits until all is written.
    hurry: bool,
}

impl Lines {
    /// Starts the thread that writes to `out`.
    ///
    /// # Errors
    /// If there can be no further thread.
    pub(crate) fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let lines = Self(Arc::default());
        let shared = Arc::clone(&lines.0);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || shared.write_to(out))?;
        Ok(lines)
    }

    /// Returns when all that was logged before is written, or `patience` is over.
    pub(crate) fn flush(&self, patience: Duration) {
        let mut state = self.0.lock();
        state.hurry = true;
        self.0.changed.notify_all();
        let unwritten = |state: &mut State| state.writing || !state.waiting.is_empty();
        let waited = self.0.changed.wait_timeout_while(state, patience, unwritten);
        drop(waited);
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        while state.waiting.len() > MOST_WAITING {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let is_first = state.waiting.is_empty() && !state.writing;
        state.waiting.extend_from_slice(line);
        drop(state);
        if is_first {
            self.0.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_to(&self, mut out: impl Write) {
        let mut taken = Vec::new();
        let mut state = self.lock();
        loop {
            state = self
                .changed
                .wait_while(state, |state| state.waiting.is_empty())
                .unwrap_or_else(PoisonError::into_inner);
            let gathered = self.changed.wait_timeout_while(state, GATHER, |state| {
                !state.hurry && state.waiting.len() < MOST_WAITING
            });
            (state, _) = gathered.unwrap_or_else(PoisonError::into_inner);
            state.hurry = false;
            state.writing = true;
            std::mem::swap(&mut taken, &mut state.waiting);
            drop(state);
            // A reader that is gone reads nothing: there is nobody to tell.
            let _ = out.write_all(&taken).and_then(|()| out.flush());
            taken.clear();
            state = self.lock();
            state.writing = false;
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    /// Tells of each write.
    struct Writes(mpsc::Sender<String>);

    impl Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.send(String::from_utf8_lossy(bytes).into_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_of_one_moment_are_one_write_in_order_and_none_waits_for_another() {
        let (sent, written) = mpsc::channel();
        let lines = Lines::start(Writes(sent)).unwrap();
        for number in 0..100 {
            lines.clone().write_all(format!("{number}\n").as_bytes()).unwrap();
        }
        let (mut seen, mut writes) = (String::new(), 0);
        while seen.lines().count() < 100 {
            seen += &written.recv_timeout(Duration::from_secs(10)).unwrap();
            writes += 1;
        }
        let numbers: Vec<usize> = seen.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(numbers, (0..100).collect::<Vec<_>>());
        assert!(writes < 50, "{writes} writes");
        lines.clone().write_all(b"alone\n").unwrap();
        assert_eq!(written.recv_timeout(Duration::from_secs(10)).unwrap(), "alone\n");
    }

    #[test]
    fn a_flush_ends_when_all_is_written_and_a_slow_reader_loses_nothing() {
        struct Slow(mpsc::Sender<usize>);
        impl Write for Slow {
            #[expect(clippy::disallowed_methods, reason = "a thread that no runtime shares")]
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                std::thread::sleep(Duration::from_millis(20));
                let _ = self.0.send(bytes.len());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (sent, written) = mpsc::channel();
        let lines = Lines::start(Slow(sent)).unwrap();
        let line = vec![b'x'; MOST_WAITING / 2 + 1];
        for _ in 0..5 {
            lines.clone().write_all(&line).unwrap();
        }
        lines.flush(Duration::from_secs(10));
        assert_eq!(written.try_iter().sum::<usize>(), line.len() * 5);
        let began = Instant::now();
        lines.flush(Duration::from_secs(10));
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "there is nothing to wait for"
        );
    }
}
