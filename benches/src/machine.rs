//! The machine: its CPUs, what the kernel says of this process, and a line that names it all.

use std::fs;
use std::process::Command;
use std::thread;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The CPUs that this process was given, and what each is for. Taken once, before anything is
/// pinned.
#[derive(Clone, Debug)]
pub struct Cpus {
    /// Where the measuring thread runs.
    pub reader: usize,
    /// Where the engine's threads run: the reader's own CPU if there is only one.
    pub owner: usize,
    /// Where threads run that drive writes: a third CPU if there is one, the owner's otherwise.
    pub drivers: Vec<usize>,
    /// All of them.
    pub all: Vec<usize>,
}

impl Cpus {
    /// # Panics
    ///
    /// If the kernel does not say which CPUs there are.
    pub fn given() -> Self {
        let set = sched_getaffinity(None).expect("the kernel tells the CPUs of this process");
        let all: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect();
        let reader = all[0];
        let owner = all.get(1).copied().unwrap_or(reader);
        let drivers = if all.len() > 2 { all[2..].to_vec() } else { vec![owner] };
        Self { reader, owner, drivers, all }
    }

    /// Whether the threads that drive writes share the owner's CPU.
    pub fn drivers_share(&self) -> bool {
        self.drivers[0] == self.owner
    }
}

/// Pins the calling thread, and all threads and processes that it starts from now on.
///
/// # Panics
///
/// If the kernel does not allow it: figures of threads that wander are worth nothing.
pub fn pin(cpu: usize) {
    allow(&[cpu]);
}

fn allow(cpus: &[usize]) {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|&cpu| set.set(cpu));
    sched_setaffinity(None, &set).expect("this thread may be pinned");
}

/// Runs `work` on a thread of its own that keeps to `cpus`, and waits for it. So does what it
/// starts.
///
/// # Panics
///
/// If `work` panics.
pub fn on_cpus<T: Send>(cpus: &[usize], work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let pinned = scope.spawn(|| {
            allow(cpus);
            work()
        });
        pinned.join().expect("the work was done")
    })
}

/// The resident set of this process.
pub fn resident_bytes() -> u64 {
    status_bytes("VmRSS:")
}

/// The largest resident set that this process ever had.
pub fn most_resident_bytes() -> u64 {
    status_bytes("VmHWM:")
}

fn status_bytes(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.expect("/proc/self/status tells the resident set") * 1024
}

/// How many threads of this machine wanted a CPU during the last minute, this process's among them.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

/// CPU, toolchain and commit, in a few lines.
pub fn description(cpus: &Cpus) -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let virtual_machine = if info.contains(" hypervisor") { ", a virtual machine" } else { "" };
    let huge =
        fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "machine   {}, {} CPUs{virtual_machine}; Linux {}; huge pages {}\n\
         load      {:.2} in the minute before; it should be near 0\n\
         threads   reader on CPU {}, engine on CPU {}, drivers of writes on CPU {:?}\n\
         built by  {}, release; commit {}",
        model.unwrap_or("unknown CPU"),
        cpus.all.len(),
        kernel.trim(),
        huge.split(['[', ']']).nth(1).unwrap_or("unknown"),
        load(),
        cpus.reader,
        cpus.owner,
        cpus.drivers,
        env!("REPORT_RUSTC"),
        commit(),
    )
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output();
        let output = output.ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    let is_changed = git(&["status", "--porcelain"]).is_some_and(|changes| !changes.is_empty());
    format!("{commit}{}", if is_changed { ", with changes" } else { "" })
}
