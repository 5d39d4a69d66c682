//! Job kind `log`: writes down that the event came. What a source gets that names no other kind.

use crate::outcome::Outcome;
use crate::registry::{JobContext, JobFuture, JobHandler};

/// Logs the event's type and ids, never its data.
#[derive(Debug, Clone, Copy)]
pub struct Log;

impl JobHandler for Log {
    fn kind(&self) -> &'static str {
        "log"
    }

    fn run(&self, job: JobContext) -> JobFuture<'_> {
        Box::pin(async move {
            tracing::info!(
                event.id = %job.event_id,
                event.source = job.event.source,
                event.r#type = job.event.event_type,
                event.provider_id = job.event.provider_event_id,
                "event received"
            );
            Outcome::Succeeded
        })
    }
}
