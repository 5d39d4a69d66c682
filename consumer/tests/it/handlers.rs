//! Job kinds that do what a test tells them to, when it tells them to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use consumer::outcome::Outcome;
use consumer::registry::{JobContext, JobFuture, JobHandler};
use tokio::sync::{Mutex, Semaphore, mpsc};
use uuid::Uuid;

use crate::world::in_time;

/// Kind `gate`: each run reports that it began and waits to be let through.
#[derive(Clone)]
pub(crate) struct Gate(Arc<Inner>);

struct Inner {
    began: mpsc::UnboundedSender<(Uuid, i32)>,
    begun: Mutex<mpsc::UnboundedReceiver<(Uuid, i32)>>,
    passes: Semaphore,
    inside: AtomicUsize,
    most_inside: AtomicUsize,
}

/// A run inside; gone when its handler has ended or was dropped.
struct Inside<'a>(&'a Inner);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Gate {
    /// A closed one.
    pub(crate) fn new() -> Self {
        let (began, begun) = mpsc::unbounded_channel();
        Self(Arc::new(Inner {
            began,
            begun: Mutex::new(begun),
            passes: Semaphore::new(0),
            inside: AtomicUsize::new(0),
            most_inside: AtomicUsize::new(0),
        }))
    }

    /// Waits until the next run has begun: its job and attempt.
    pub(crate) async fn begun(&self) -> (Uuid, i32) {
        in_time("a run begins", async {
            self.0.begun.lock().await.recv().await.unwrap()
        })
        .await
    }

    /// Lets that many runs through.
    pub(crate) fn let_through(&self, runs: usize) {
        self.0.passes.add_permits(runs);
    }

    /// Runs that are inside now.
    pub(crate) fn inside(&self) -> usize {
        self.0.inside.load(Ordering::SeqCst)
    }

    /// Runs that were inside at once, at the most.
    pub(crate) fn most_inside(&self) -> usize {
        self.0.most_inside.load(Ordering::SeqCst)
    }
}

impl JobHandler for Gate {
    fn kind(&self) -> &'static str {
        "gate"
    }

    fn run(&self, job: JobContext) -> JobFuture<'_> {
        Box::pin(async move {
            let inside = Inside(&self.0);
            let now = self.0.inside.fetch_add(1, Ordering::SeqCst) + 1;
            self.0.most_inside.fetch_max(now, Ordering::SeqCst);
            let _ = self.0.began.send((job.job_id, job.attempt));
            self.0.passes.acquire().await.unwrap().forget();
            drop(inside);
            Outcome::Succeeded
        })
    }
}
