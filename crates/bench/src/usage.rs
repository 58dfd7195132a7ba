//! CPU time and memory of processes, from /proc.
//!
//! A server has children: Postgres one for each connection, and they come and go. Counted are its first process, those
//! children that live, and, because the first one waits for those that ended, what it says of them (`cutime`, `cstime`).

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The kernel's clock ticks per second: 100 on every Linux, whatever its own timer does.
const TICKS_PER_SECOND: f64 = 100.0;
/// How often memory is looked at.
const MEMORY_INTERVAL: Duration = Duration::from_secs(1);

/// Milliseconds of CPU, or megabytes of memory, by the name of the process.
pub(crate) type ByProcess = BTreeMap<&'static str, f64>;

/// The processes that are watched.
#[derive(Clone, Default)]
pub(crate) struct Usage(Arc<Mutex<State>>);

/// Processes that count as one.
#[derive(Clone)]
enum Watched {
    Programs(Vec<u32>),
    /// A first process, and its children.
    Server(u32),
}

#[derive(Default)]
struct State {
    processes: BTreeMap<&'static str, Watched>,
    peak_megabytes: ByProcess,
    /// Since the peak was last reset, in the order of time.
    samples: Vec<ByProcess>,
}

impl Usage {
    /// Starts to watch memory, for as long as this process runs.
    pub(crate) fn start() -> Self {
        let usage = Self::default();
        let watched = usage.clone();
        std::thread::spawn(move || {
            loop {
                watched.sample_memory();
                std::thread::sleep(MEMORY_INTERVAL);
            }
        });
        usage
    }

    /// Watches these processes under a name, instead of those watched so far.
    pub(crate) fn watch(&self, name: &'static str, ids: Vec<u32>) {
        self.lock().processes.insert(name, Watched::Programs(ids));
    }

    /// Watches a process and its children.
    pub(crate) fn watch_server(&self, name: &'static str, id: u32) {
        self.lock().processes.insert(name, Watched::Server(id));
    }

    /// CPU used so far, in milliseconds.
    pub(crate) fn cpu_milliseconds(&self) -> ByProcess {
        let processes = self.lock().processes.clone();
        let table = ProcessTable::read();
        let milliseconds = |watched| table.ticks_of(watched) as f64 * 1000.0 / TICKS_PER_SECOND;
        processes.iter().map(|(name, watched)| (*name, milliseconds(watched))).collect()
    }

    /// Begins to look for the peak of memory anew.
    pub(crate) fn reset_peak(&self) {
        let mut state = self.lock();
        state.peak_megabytes.clear();
        state.samples.clear();
        drop(state);
        self.sample_memory();
    }

    /// The most memory since [`Usage::reset_peak`], in megabytes (2^20 bytes).
    pub(crate) fn peak_megabytes(&self) -> ByProcess {
        self.lock().peak_megabytes.clone()
    }

    /// Memory over time since [`Usage::reset_peak`], one look a second, in megabytes.
    pub(crate) fn memory_over_time(&self) -> Vec<ByProcess> {
        self.lock().samples.clone()
    }

    fn sample_memory(&self) {
        let processes = self.lock().processes.clone();
        let table = ProcessTable::read();
        let now: ByProcess =
            processes.iter().map(|(name, watched)| (*name, megabytes_of(&table.ids_of(watched)))).collect();
        let mut state = self.lock();
        for (name, megabytes) in &now {
            let peak = state.peak_megabytes.entry(name).or_default();
            *peak = peak.max(*megabytes);
        }
        state.samples.push(now);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What `after` has more than `before`.
pub(crate) fn difference(after: &ByProcess, before: &ByProcess) -> ByProcess {
    after.iter().map(|(name, value)| (*name, value - before.get(name).copied().unwrap_or_default())).collect()
}

struct ProcessTable(BTreeMap<u32, Process>);

struct Process {
    parent: u32,
    ticks: u64,
    ticks_of_ended_children: u64,
}

impl ProcessTable {
    fn read() -> Self {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        Self(ids.filter_map(|id| Some((id, read_process(id)?))).collect())
    }

    fn ids_of(&self, watched: &Watched) -> Vec<u32> {
        match watched {
            Watched::Programs(ids) => ids.clone(),
            Watched::Server(first) => {
                let belongs = |(id, process): &(&u32, &Process)| *id == first || process.parent == *first;
                self.0.iter().filter(belongs).map(|(id, _)| *id).collect()
            }
        }
    }

    fn ticks_of(&self, watched: &Watched) -> u64 {
        let ended = match watched {
            Watched::Programs(_) => 0,
            Watched::Server(first) => self.0.get(first).map_or(0, |process| process.ticks_of_ended_children),
        };
        let alive = self.ids_of(watched).into_iter().filter_map(|id| self.0.get(&id));
        ended + alive.map(|process| process.ticks).sum::<u64>()
    }
}

fn read_process(id: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    parse_stat(&stat)
}

/// Reads a line of /proc/PID/stat. The name, in parentheses, may have spaces: counted is from behind it.
fn parse_stat(stat: &str) -> Option<Process> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
    Some(Process {
        parent: fields.get(1)?.parse().ok()?,
        ticks: number(11)? + number(12)?,
        ticks_of_ended_children: number(13)? + number(14)?,
    })
}

/// What tells a process from any other that has its number: as scripts/lib/process.sh writes it.
pub(crate) fn birth_of(id: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let started = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.to_owned();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Some(format!("{started}@{}", boot.trim()))
}

/// Memory of processes that may share some: private memory of all, shared and file memory of the one with the most.
fn megabytes_of(ids: &[u32]) -> f64 {
    let (mut private, mut shared, mut file) = (0_u64, 0_u64, 0_u64);
    for id in ids {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let kilobytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok())
                .unwrap_or_default()
        };
        private += kilobytes("RssAnon");
        shared = shared.max(kilobytes("RssShmem"));
        file = file.max(kilobytes("RssFile"));
    }
    (private + shared + file) as f64 / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "42 (a (b) c) S 7 42 42 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 12345 1 2";
        let process = parse_stat(stat).unwrap();
        assert_eq!((process.parent, process.ticks, process.ticks_of_ended_children), (7, 120, 7));
    }

    #[test]
    fn this_process_has_used_memory() {
        assert!(megabytes_of(&[std::process::id()]) > 0.5);
        assert!(birth_of(std::process::id()).unwrap().contains('@'));
    }
}
