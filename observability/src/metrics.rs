//! The metric registry of a process and its OpenMetrics text.
//!
//! Owns the format and what is known of any process. A service's metrics are registered by the types that
//! count them, under names without `_total` (the encoder adds it). Served by `admin.rs`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{counter::ConstCounter, gauge::ConstGauge, gauge::Gauge},
    registry::Registry,
};

/// Content type of what [`encode`] returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Writes the metrics of now; called once a scrape, so it must neither block nor wait.
pub type Encoder = Arc<dyn Fn() -> Result<String, fmt::Error> + Send + Sync>;

/// A registry that already holds what is known of any process: CPU, memory, open files.
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Process));
    registry
}

/// The registry's metrics as OpenMetrics text, ending with `# EOF`.
///
/// # Errors
/// `fmt::Error` when a collector fails.
pub fn encode(registry: &Registry) -> Result<String, fmt::Error> {
    let mut out = String::new();
    text::encode(&mut out, registry)?;
    Ok(out)
}

/// An [`Encoder`] of a registry that is complete.
pub fn encoder(registry: Registry) -> Encoder {
    Arc::new(move || encode(&registry))
}

/// For how long rows can still be stored. The alert on it fires days before they cannot. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct PartitionHorizon(Gauge<f64, AtomicU64>);

impl PartitionHorizon {
    /// Time until a table runs out of partitions.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "partition_horizon_seconds",
            "Time until a table runs out of partitions, as of the last minute; about 14 days when all is well",
            self.0.clone(),
        );
    }

    /// What upkeep found last.
    pub fn set(&self, left: Duration) {
        self.0.set(left.as_secs_f64());
    }
}

/// Reads `/proc/self` at each scrape: three small reads, and nothing to keep up to date in between. What
/// can't be read, as on other systems than Linux, is left out.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let cpu = cpu_seconds().map(ConstCounter::new);
        write(
            &mut encoder,
            "process_cpu_seconds",
            "CPU time used, user and system.",
            cpu,
        )?;
        let resident = resident_bytes().map(ConstGauge::new);
        write(
            &mut encoder,
            "process_resident_memory_bytes",
            "Memory held in RAM.",
            resident,
        )?;
        let open_fds = std::fs::read_dir("/proc/self/fd")
            .ok()
            .map(|entries| ConstGauge::new(entries.count()));
        write(
            &mut encoder,
            "process_open_fds",
            "Open file descriptors.",
            open_fds,
        )
    }
}

fn write(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: Option<impl EncodeMetric>,
) -> Result<(), fmt::Error> {
    let Some(metric) = metric else { return Ok(()) };
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

fn cpu_seconds() -> Option<f64> {
    /// Linux shows times to user space in hundredths, whatever the kernel counts in.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the command in parentheses, may itself hold spaces; user and system time are the
    // 12th and 13th after it.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields
        .split_whitespace()
        .skip(11)
        .map(|field| field.parse::<f64>().ok());
    Some((times.next()?? + times.next()??) / TICKS_PER_SECOND)
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn the_text_is_openmetrics_to_its_last_line() {
        let mut registry = registry();
        let jobs = Counter::<u64>::default();
        registry.register("jobs_created", "Jobs created", jobs.clone());
        jobs.inc();
        let text = encode(&registry).unwrap();
        assert!(text.ends_with("# EOF\n"), "{text}");
        assert_eq!(text.matches("# EOF").count(), 1);
        assert!(text.contains("\njobs_created_total 1\n"), "{text}");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(!name.contains(' ') && value.parse::<f64>().is_ok(), "{line}");
        }
    }

    #[test]
    fn the_process_is_measured() {
        let text = encode(&registry()).unwrap();
        for (name, kind, floor) in [
            ("process_cpu_seconds_total", "process_cpu_seconds counter", 0.0),
            (
                "process_resident_memory_bytes",
                "process_resident_memory_bytes gauge",
                100_000.0,
            ),
            ("process_open_fds", "process_open_fds gauge", 3.0),
        ] {
            assert!(text.contains(&format!("# TYPE {kind}\n")), "{text}");
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(&format!("{name} ")))
                .unwrap();
            assert!(line.parse::<f64>().unwrap() >= floor, "{name} {line}");
        }
    }
}
