//! Job kind `warehouse`: announces each order to the warehouse, over HTTP. A whole program.
use std::{process::ExitCode, time::Duration};

use consumer::{JobContext, Outcome};

const ORDERS: &str = "http://warehouse.internal/orders";

fn main() -> ExitCode {
    consumer::main(|kinds| {
        let http = reqwest::Client::new();
        kinds.with_fn("warehouse", move |job| announce(http.clone(), job))
    })
}

async fn announce(http: reqwest::Client, job: JobContext) -> Result<(), Outcome> {
    let order = http.post(ORDERS).json(&job.event.data);
    let order = order.header("Idempotency-Key", job.job_id.to_string());
    let sent = order.timeout(Duration::from_secs(10)).send().await;
    let answer = sent.map_err(|error| Outcome::retry(error.without_url()))?;
    let wait = answer.headers().get("Retry-After");
    let wait = wait.and_then(|seconds| seconds.to_str().ok()?.parse().ok());
    match (answer.status().as_u16(), wait.map(Duration::from_secs)) {
        (200..=299, _) => Ok(()),
        (429 | 503, Some(wait)) => Err(Outcome::retry_after(wait, "it asked to wait")),
        (status @ (408 | 429 | 500..), _) => Err(Outcome::retry(format!("it answered {status}"))),
        (status, _) => Err(Outcome::failed(format!("it answered {status}"))),
    }
}
