//! Whether this process may have as much memory as an engine needs.
//!
//! An allocation that fails ends the process: neither the standard library nor the crates below
//! this one can go on without. So an engine asks before it starts. What the system promises to all
//! processes together, and what a container may use, it cannot ask for: there the system ends a
//! process that takes too much.

#![forbid(unsafe_code)]

use crate::config::Settings;
use crate::error::StartError;

/// The stack of a thread that names no size, as the standard library has it.
const DEFAULT_STACK_BYTES: usize = 2 << 20;

/// What each thread takes besides its stack: the guard, thread-locals, its poll and queues.
const THREAD_BYTES: usize = 256 << 10;

/// What an empty core takes, and what its first calls do.
const CORE_BYTES: usize = 1 << 20;

/// What the allocator takes in steps, and the sockets' buffers of a node that starts.
const BASE_BYTES: usize = 4 << 20;

/// The address space that glibc's allocator asks for when a thread first allocates, to keep half of
/// it. Threads that start together ask together. A thread that does not get it gets a page for each
/// allocation, however small, and the rest of the address space is gone within moments.
const ARENA_BYTES: usize = 128 << 20;

/// How many threads glibc gives an arena of their own, for each processor.
const ARENAS_PER_CPU: usize = 8;

/// Checks that the limits of this process leave room for an engine.
pub(super) fn check(settings: &Settings) -> Result<(), StartError> {
    for Limit { name, limit_bytes, used_bytes, reserves } in limits() {
        let free_bytes = limit_bytes.saturating_sub(used_bytes);
        let arenas = if reserves { arenas(threads(settings)) } else { 0 };
        let needed_bytes = needed(settings, stack_bytes(), arenas);
        if free_bytes < needed_bytes {
            let limit = name;
            return Err(StartError::AddressSpace { limit, limit_bytes, free_bytes, needed_bytes });
        }
    }
    Ok(())
}

/// Returns about how many bytes an engine takes, with the memory that it may fill.
fn needed(settings: &Settings, stack_bytes: usize, arenas: usize) -> u64 {
    let threads = threads(settings) * (stack_bytes + THREAD_BYTES);
    let cores = usize::from(settings.cores) * (CORE_BYTES + settings.memory.unwrap_or_default());
    (BASE_BYTES + threads + cores + arenas * ARENA_BYTES) as u64
}

/// Returns how many threads an engine has: its cores, one that talks to the logger, and in a node
/// of a cluster the control thread and the one that looks up names.
fn threads(settings: &Settings) -> usize {
    let is_node = settings.address.is_some();
    let finds = is_node && settings.finder.is_needed();
    usize::from(settings.cores) + 1 + usize::from(is_node) + usize::from(finds)
}

/// Returns the size of the threads' stacks, which the app's environment may set.
fn stack_bytes() -> usize {
    number("RUST_MIN_STACK").unwrap_or(DEFAULT_STACK_BYTES)
}

/// Returns how many of these threads get an arena of their own, if the allocator is that of glibc.
/// Whether it is cannot be known here.
fn arenas(threads: usize) -> usize {
    if !cfg!(target_env = "gnu") {
        return 0;
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    // The first arena is the main thread's.
    let most = number("MALLOC_ARENA_MAX").filter(|most| *most > 0).map(|most| most - 1);
    threads.min(most.unwrap_or(ARENAS_PER_CPU * cpus))
}

/// Returns a number of the environment, if it is one.
fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok()?.parse().ok()
}

/// A limit of this process.
struct Limit {
    name: &'static str,
    limit_bytes: u64,
    used_bytes: u64,
    /// Whether reserving counts, and not only what can be written to.
    reserves: bool,
}

/// Returns the limits that this process has.
#[cfg(target_os = "linux")]
fn limits() -> Vec<Limit> {
    use rustix::process::{Resource, getrlimit};

    let Some((size, data)) = used() else { return Vec::new() };
    let limit = |name, resource, used_bytes, reserves| {
        let limit_bytes = getrlimit(resource).current?;
        Some(Limit { name, limit_bytes, used_bytes, reserves })
    };
    let address_space = limit("RLIMIT_AS", Resource::As, size, true);
    address_space.into_iter().chain(limit("RLIMIT_DATA", Resource::Data, data, false)).collect()
}

/// Returns how many bytes of address space this process takes, and how many of them are its own to
/// write.
#[cfg(target_os = "linux")]
fn used() -> Option<(u64, u64)> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = statm.split_ascii_whitespace().map(str::parse::<u64>);
    let (size, data) = (pages.next()?.ok()?, pages.nth(4)?.ok()?);
    let page_bytes = rustix::param::page_size() as u64;
    Some((size * page_bytes, data * page_bytes))
}

#[cfg(not(target_os = "linux"))]
fn limits() -> Vec<Limit> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn what_is_needed_grows_with_threads_and_memory() {
        let with =
            |config: Config, arenas| needed(&config.check().unwrap(), DEFAULT_STACK_BYTES, arenas);
        let needed = |config| with(config, 0);
        let least = needed(Config::standalone("a"));
        assert!((8 << 20..16 << 20).contains(&least), "{least}");
        assert_eq!(with(Config::standalone("a"), 2), least + (256 << 20));
        assert!(needed(Config::standalone("a").cores(4)) > least + 3 * (2 << 20));
        assert!(needed(Config::new("a", "127.0.0.1:0")) > least + (2 << 20));
        assert!(needed(Config::standalone("a").max_memory(64 << 20)) >= least + (64 << 20));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_used_is_what_the_system_says() {
        let (size, data) = used().expect("Linux says it");
        assert!(size > data && data > 1 << 20, "{size} {data}");
    }
}
