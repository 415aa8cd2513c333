//! Apps that execute other programs.

use std::collections::BTreeMap;
use std::fs;

use gridkv::Config;

use crate::in_own_process;
use crate::support::engines::cluster;

/// The open descriptors of this process, each with its flags.
fn descriptors() -> BTreeMap<String, u32> {
    let flags = |fd: &str| {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        u32::from_str_radix(flags.trim(), 8).ok()
    };
    let entries = fs::read_dir("/proc/self/fd").expect("Linux has it");
    let names = entries.map(|entry| entry.expect("it reads").file_name().into_string().unwrap());
    names.filter_map(|fd| flags(&fd).map(|flags| (fd, flags))).collect()
}

/// A program that the app executes would keep the engine's port and connections open.
#[test]
fn no_descriptor_of_the_engine_is_left_to_a_program_that_the_app_executes() {
    let test =
        "descriptors::no_descriptor_of_the_engine_is_left_to_a_program_that_the_app_executes";
    in_own_process(test, || {
        let before = descriptors();
        let engines = cluster(3, |config: Config| config.cores(2));
        engines[0].set("key", "value").expect("there are three");
        let all = descriptors();
        let new: Vec<_> = all.iter().filter(|(fd, _)| !before.contains_key(*fd)).collect();
        // Three listeners, three datagram sockets, nine polls with their wakers, and connections.
        assert!(new.len() > 24, "{new:?}");
        for (fd, flags) in new {
            assert!(flags & libc::O_CLOEXEC as u32 != 0, "descriptor {fd} has the flags {flags:o}");
        }
    });
}
