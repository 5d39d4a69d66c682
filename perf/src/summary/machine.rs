//! The machine, as far as figures depend on it; nothing that tells which one it is.

use std::fs;

/// What the kernel says of the machine. What it does not say is "unknown".
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) cores: usize,
    pub(super) model: String,
    pub(super) memory: String,
    pub(super) kernel: String,
    /// The TCP congestion control that new connections begin with.
    pub(super) congestion: String,
    /// Huge pages in use: nearly always PostgreSQL's shared memory, or none.
    pub(super) huge_pages: String,
}

impl Machine {
    pub(super) fn this() -> Self {
        let line = |file: &str| {
            let text = fs::read_to_string(file).ok()?;
            Some(text.trim().to_owned())
        };
        let kibibytes: Option<f64> =
            member("/proc/meminfo", "MemTotal").and_then(|value| value.trim_end_matches(" kB").parse().ok());
        let known = |value: Option<String>| value.unwrap_or_else(|| "unknown".to_owned());
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            model: known(member("/proc/cpuinfo", "model name")),
            memory: known(kibibytes.map(|kibibytes| format!("{:.1} GiB", kibibytes / f64::from(1 << 20)))),
            kernel: known(line("/proc/sys/kernel/osrelease")),
            congestion: known(line("/proc/sys/net/ipv4/tcp_congestion_control")),
            huge_pages: known(huge_pages()),
        }
    }
}

fn huge_pages() -> Option<String> {
    let count = |name| member("/proc/meminfo", name)?.parse::<u64>().ok();
    // Those that are promised have not been touched yet.
    let taken =
        (count("HugePages_Total")? + count("HugePages_Rsvd")?).checked_sub(count("HugePages_Free")?)?;
    Some(match taken {
        0 => "none in use".to_owned(),
        taken => format!(
            "{taken} pages of {} in use",
            member("/proc/meminfo", "Hugepagesize")?
        ),
    })
}

/// What stands behind `name:` on its first line of a file.
fn member(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let of_line = |line: &str| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == name).then(|| value.trim().to_owned())
    };
    text.lines().find_map(of_line)
}
