//! CPU time and memory of processes, as the kernel has them in `/proc`.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::Context as _;

use crate::config::Pids;

/// The kernel counts CPU time for us in hundredths of a second, on every machine (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// A process that is measured, by the name that tables call it.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    pub(crate) name: &'static str,
    process: Process,
    /// A service of ours: one process. A server counts with all its descendants.
    is_service: bool,
}

/// The processes whose pids are known; a server that only a URL leads to has none here.
///
/// # Errors
/// Names the variable whose process is not there, or is another program.
pub(crate) fn find_all(pids: &Pids) -> anyhow::Result<Vec<Measured>> {
    let known = [
        ("api", "API_PID", &pids.api_pid, "relayforge-api"),
        ("relay", "RELAY_PID", &pids.relay_pid, "relayforge-relay"),
        (
            "consumer",
            "CONSUMER_PID",
            &pids.consumer_pid,
            "relayforge-consumer",
        ),
        ("PostgreSQL", "POSTGRES_PID", &pids.postgres_pid, ""),
        ("RabbitMQ", "RABBITMQ_PID", &pids.rabbitmq_pid, ""),
    ];
    let known = known.into_iter().filter(|(_, _, pid, _)| !pid.is_empty());
    let find = |(name, variable, pid, program): (&'static str, &'static str, &String, &str)| {
        let pid = pid.parse().map_err(anyhow::Error::from);
        let process = pid
            .and_then(|pid| Process::find(pid, program))
            .context(variable)?;
        Ok(Measured {
            name,
            process,
            is_service: !program.is_empty(),
        })
    };
    known.map(find).collect()
}

/// CPU time that each has used so far.
///
/// # Errors
/// If one has ended.
pub(crate) fn times(processes: &[Measured]) -> anyhow::Result<Vec<Duration>> {
    let time = |measured: &Measured| {
        if measured.is_service {
            measured.process.own_time()
        } else {
            measured.process.family_time()
        }
    };
    processes.iter().map(time).collect()
}

impl Measured {
    /// This process.
    pub(crate) fn this(name: &'static str) -> anyhow::Result<Self> {
        Ok(Self {
            name,
            process: Process::find(std::process::id(), "")?,
            is_service: true,
        })
    }

    /// Has [`Self::memory`] of a service be the most from now on; of one that is somebody else's it stays the most since
    /// its start.
    pub(crate) fn forget_most_memory(&self) {
        if self.is_service {
            let _ = self.process.forget_most_memory();
        }
    }

    /// Bytes of memory: of a service the most that was resident, of a server what it and its descendants have now.
    ///
    /// # Errors
    /// If it has ended.
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        if self.is_service {
            self.process.most_memory()
        } else {
            self.process.family_memory()
        }
    }

    /// Whether it is a debug build of ours.
    pub(crate) fn is_debug_build(&self) -> bool {
        self.is_service && self.process.is_debug_build()
    }
}

/// A process that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pid: u32,
    /// Ticks from boot to its start: a pid is used again.
    started: u64,
}

/// What `/proc/<pid>/stat` says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stat {
    name: String,
    parent: u32,
    own_ticks: u32,
    /// Of children that have ended and were waited for, and theirs.
    reaped_ticks: u32,
    started: u64,
}

impl Process {
    /// The process that `pid` is now, which has to have that name (the kernel keeps 15 bytes of it); any, if it is empty.
    ///
    /// # Errors
    /// If it is gone, or is another program.
    pub(crate) fn find(pid: u32, name: &str) -> anyhow::Result<Self> {
        let stat = stat_of(pid)?;
        anyhow::ensure!(
            name.is_empty() || stat.name == name.get(..15).unwrap_or(name),
            "process {pid} is {}, not {name}",
            stat.name
        );
        Ok(Self {
            pid,
            started: stat.started,
        })
    }

    /// Whether it is a debug build, by the folder that it was started from.
    pub(crate) fn is_debug_build(&self) -> bool {
        let path = fs::read_link(format!("/proc/{}/exe", self.pid));
        path.is_ok_and(|path| path.components().any(|part| part.as_os_str() == "debug"))
    }

    /// CPU time that it has used so far, its children's not included.
    ///
    /// # Errors
    /// If it has ended.
    pub(crate) fn own_time(&self) -> anyhow::Result<Duration> {
        Ok(TICK * self.stat()?.own_ticks)
    }

    /// CPU time that it has used so far, with all its descendants, those included that have ended meanwhile.
    ///
    /// # Errors
    /// If it has ended.
    pub(crate) fn family_time(&self) -> anyhow::Result<Duration> {
        let own = self.stat()?;
        let all = all_stats()?;
        let ticks = |stat: &Stat| stat.own_ticks + stat.reaped_ticks;
        let descendants = all.iter().filter(|(_, stat)| self.is_ancestor(stat, &all));
        Ok(TICK * (ticks(&own) + descendants.map(|(_, stat)| ticks(stat)).sum::<u32>()))
    }

    /// Memory that it and its descendants have now, in bytes; what several share is counted once (proportional set size).
    ///
    /// # Errors
    /// If it has ended.
    pub(crate) fn family_memory(&self) -> anyhow::Result<u64> {
        self.stat()?;
        let all = all_stats()?;
        let descendants = all.iter().filter(|(_, stat)| self.is_ancestor(stat, &all));
        let others: u64 = descendants
            .filter_map(|(pid, _)| proportional_memory(*pid).ok())
            .sum();
        Ok(proportional_memory(self.pid)? + others)
    }

    /// Has the kernel forget the most memory that it ever had, so that [`Self::most_memory`] is the most from now on.
    ///
    /// # Errors
    /// If the process is somebody else's.
    pub(crate) fn forget_most_memory(&self) -> anyhow::Result<()> {
        // `proc(5)`: 5 resets the peak resident set size.
        let file = format!("/proc/{}/clear_refs", self.pid);
        fs::write(&file, "5").with_context(|| format!("{file} can't be written"))
    }

    /// The most memory that was resident at any time, in bytes.
    ///
    /// # Errors
    /// If it has ended.
    pub(crate) fn most_memory(&self) -> anyhow::Result<u64> {
        self.stat()?;
        kilobytes(&format!("/proc/{}/status", self.pid), "VmHWM:")
    }

    fn is_ancestor(&self, stat: &Stat, all: &HashMap<u32, Stat>) -> bool {
        let mut parent = stat.parent;
        // A chain of parents is no longer than the number of processes, also while it changes under us.
        for _ in 0..all.len() {
            if parent == self.pid {
                return true;
            }
            match all.get(&parent) {
                Some(next) => parent = next.parent,
                None => return false,
            }
        }
        false
    }

    fn stat(&self) -> anyhow::Result<Stat> {
        let stat = stat_of(self.pid)?;
        anyhow::ensure!(stat.started == self.started, "process {} was replaced", self.pid);
        Ok(stat)
    }
}

/// All processes. Whoever ends while we look is counted by its parent, now or at the next look.
fn all_stats() -> anyhow::Result<HashMap<u32, Stat>> {
    let pids = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(pids.filter_map(|pid| Some((pid, stat_of(pid).ok()?))).collect())
}

fn proportional_memory(pid: u32) -> anyhow::Result<u64> {
    kilobytes(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// The line of a file of `/proc` that is `<name> <number> kB`, in bytes.
fn kilobytes(file: &str, name: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string(file).with_context(|| format!("{file} can't be read"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    number
        .map(|number| number * 1024)
        .with_context(|| format!("{file} has no {name}"))
}

fn stat_of(pid: u32) -> anyhow::Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} does not run"))?;
    parse(&text).with_context(|| format!("/proc/{pid}/stat can't be read"))
}

/// The name stands in parentheses and may hold any character, those too.
fn parse(text: &str) -> Option<Stat> {
    let (head, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // `proc(5)` counts from 1, and the third is our first.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks = |one, other| u32::try_from(field(one)? + field(other)?).ok();
    Some(Stat {
        name: head.split_once('(')?.1.to_owned(),
        parent: u32::try_from(field(4)?).ok()?,
        own_ticks: ticks(14, 15)?,
        reaped_ticks: ticks(16, 17)?,
        started: field(22)?,
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_line_is_read_whatever_the_name_is() {
        let line = "4242 (a) b (c) S 17 4242 4242 0 -1 4194560 1 2 3 4 150 50 7 3 20 0 9 0 123456 1 2 3";
        assert_eq!(
            parse(line),
            Some(Stat {
                name: "a) b (c".to_owned(),
                parent: 17,
                own_ticks: 200,
                reaped_ticks: 10,
                started: 123_456,
            })
        );
        assert_eq!(parse("4242 (x) S 1"), None);
    }

    #[test]
    fn work_is_counted_where_it_is_done_and_a_dead_child_with_its_family() {
        let me = Process::find(std::process::id(), "").unwrap();
        let (own, family) = (me.own_time().unwrap(), me.family_time().unwrap());
        let status = Command::new("sh")
            .args(["-c", "i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done"])
            .status()
            .unwrap();
        assert!(status.success());
        let spent = me.family_time().unwrap() - family;
        assert!(spent >= TICK * 5, "{spent:?} for the child");
        let mine = me.own_time().unwrap() - own;
        assert!(mine < spent, "{mine:?} of {spent:?} were mine");
    }

    #[test]
    fn memory_that_was_given_back_is_still_the_most_until_it_is_forgotten() {
        const BYTES: u64 = 64 << 20;
        let me = Process::find(std::process::id(), "").unwrap();
        me.forget_most_memory().unwrap();
        let before = me.most_memory().unwrap();
        let block = std::hint::black_box(vec![1_u8; 64 << 20]);
        let with = me.family_memory().unwrap();
        drop(block);
        let most = me.most_memory().unwrap();
        assert!(most >= before + BYTES / 2, "{before} {most}");
        assert!(with >= BYTES, "{with}");
        me.forget_most_memory().unwrap();
        assert!(me.most_memory().unwrap() < most);
    }

    #[test]
    fn another_program_and_a_pid_that_is_nobodys_are_refused() {
        let pid = std::process::id();
        let error = Process::find(pid, "relayforge-api").unwrap_err().to_string();
        assert!(error.contains("not relayforge-api"), "{error}");
        assert!(Process::find(u32::MAX, "").is_err());
        let replaced = Process { pid, started: 1 };
        assert!(replaced.own_time().is_err());
    }
}
