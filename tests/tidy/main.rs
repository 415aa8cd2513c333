//! What the repository promises about its own source: who may name whom, where unsafe code is, how
//! long lines and files are, and how plain the words of comments.
//!
//! `cargo test --test tidy -- --nocapture` prints the marker words of each folder.

mod arrows;
mod prose;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::slice;

use crate::arrows::Arrows;
use crate::prose::{Count, Prose};
use crate::source::{FOLDERS, Source, files, relative, sources};

// ── the house ──

/// The rooms of `src`, each a folder or a file, from the top floor down; and the rooms that each
/// may name. All of those stand below it.
#[rustfmt::skip]
const ROOMS: &[(&str, &str)] = &[
    // The top: what an app sees.
    ("lib", "engine runtime shard config discovery events error options security types"),
    ("engine", "runtime shard config store discovery events error options entry quorums security \
                clock types"),
    // Drivers: real threads, sockets and clocks, or simulated ones.
    ("fuzzing", "runtime config wire membership security options placement quorums clock types"),
    ("runtime", "control shard config wire store discovery security events error options placement \
                 entry clock counting types sync prefetch logging mutants"),
    ("sim", "control shard replication config wire store membership security events error options \
             placement entry quorums clock types mutants"),
    // The protocol: state machines.
    ("control", "shard config wire membership security discovery events error placement quorums \
                 clock types logging mutants"),
    ("shard", "replication config wire store error options placement entry quorums clock types \
               logging mutants"),
    ("replication", "wire error options placement entry quorums clock types logging mutants"),
    // The ground.
    ("wire", "config membership options placement entry quorums clock types"),
    ("config", "discovery error options placement quorums security types"),
    ("store", "options entry clock types sync prefetch mutants"),
    ("membership", "security clock types logging mutants"),
    ("events", "security types"),
    ("discovery", "types"),
    ("error", "quorums security types"),
    ("placement", "quorums types mutants"),
    ("entry", "clock types sync prefetch mutants"),
    ("quorums", "options types mutants"),
    ("options", "types"),
    ("security", "clock types mutants"),
    ("clock", "types mutants"),
    ("types", "mutants"),
    ("sync", "mutants"),
    ("prefetch", ""),
    // Counts what tests allocate.
    ("counting", ""),
    ("logging", ""),
    ("mutants", ""),
];

/// The room of a file: `store/table/mod.rs` is in `store`.
fn room(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// Whether the floor plan lets a room name another one.
fn may_name(above: &str, below: &str) -> bool {
    let rooms = ROOMS.iter().find(|(name, _)| *name == above);
    rooms.is_some_and(|(_, may)| may.split_whitespace().any(|name| name == below))
}

#[test]
fn a_room_names_only_rooms_that_it_may() {
    let mut wrong = Vec::new();
    for (from, to) in Arrows::new(&sources("src")).all() {
        let (above, below) = (room(from), room(to));
        if above != below && !may_name(above, below) {
            wrong.push(format!("{above} names {below}: {from} -> {to}"));
        }
    }
    assert_none("arrows that the floor plan does not have", &wrong);
}

#[test]
fn the_floor_plan_has_every_room_and_points_down() {
    let place = |room: &str| ROOMS.iter().position(|(name, _)| *name == room);
    let mut wrong = Vec::new();
    for (at, (name, may)) in ROOMS.iter().enumerate() {
        let is_below = |other: &&str| place(other).is_some_and(|other| other > at);
        let others = may.split_whitespace().filter(|other| !is_below(other));
        wrong.extend(others.map(|other| format!("{name} may name {other}, which is not below it")));
    }
    let sources = sources("src");
    let rooms = sources.iter().map(|source| room(source.path.trim_start_matches("src/")));
    let rooms: BTreeSet<&str> = rooms.collect();
    let empty = ROOMS.iter().filter(|(name, _)| !rooms.contains(name));
    wrong.extend(empty.map(|(name, _)| format!("there is no room {name}")));
    let unknown = rooms.iter().filter(|room| place(room).is_none());
    wrong.extend(unknown.map(|room| format!("the floor plan lacks the room {room}")));
    assert_none("faults of the floor plan", &wrong);
}

#[test]
fn files_do_not_name_each_other_in_a_circle() {
    let arrows = Arrows::new(&sources("src"));
    let circles = arrows.circles().into_iter().map(|circle| {
        let arrows: Vec<String> =
            circle.into_iter().map(|(from, to)| format!("{from} -> {to}")).collect();
        arrows.join("\n    ") + "\n"
    });
    let circles: Vec<String> = circles.collect();
    assert_none("circles", &circles);
}

/// Fails if there is any, and lists them.
#[track_caller]
fn assert_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{} {what}:\n    {}", found.len(), found.join("\n    "));
}

// ── what code may name ──

/// Rooms whose logic is pure: it takes time, events and chance as arguments and returns actions.
#[rustfmt::skip]
const PURE: &[&str] = &[
    "sim", "fuzzing", "control", "shard", "replication", "wire", "store", "membership", "placement",
    "entry", "quorums", "clock", "types", "security",
];

/// What pure code never names: the system.
const IMPURE: &[&str] = &[
    "std::thread",
    "std::io",
    "std::net::Tcp",
    "std::net::Udp",
    "std::process",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "std::time::Instant",
    "SystemTime",
    "mio::",
    "socket2::",
    "crossbeam::",
    "thread_rng",
    "rand::rng(",
    "RandomState",
    // Seeded at random, so that their order is another one in every process.
    "std::collections::HashMap",
    "std::collections::HashSet",
];

/// The paths that `use` statements bring in, each written out: `use a::{b, c::{d, e}};` is `a::b`,
/// `a::c::d` and `a::c::e`.
fn imports(code: &str) -> Vec<String> {
    fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
        let (mut depth, mut start) = (0, 0);
        for (at, letter) in tree.char_indices().chain([(tree.len(), ',')]) {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    let part = tree[start..at].trim();
                    match part.split_once('{') {
                        Some((path, inner)) => {
                            let inner = inner.trim_end().strip_suffix('}').unwrap_or(inner);
                            expand(&format!("{prefix}{path}"), inner, paths);
                        }
                        None if part.is_empty() => {}
                        None => paths.push(format!("{prefix}{part}")),
                    }
                    start = at + 1;
                }
                _ => {}
            }
        }
    }
    let mut paths = Vec::new();
    for statement in code.split("use ").skip(1).filter_map(|rest| rest.split(';').next()) {
        expand("", statement, &mut paths);
    }
    paths
}

#[test]
fn imports_are_written_out() {
    let code = "use std::{thread, io::{self, Read}};\nuse std::time::{Duration, Instant};";
    let all = ["std::thread", "std::io::self", "std::io::Read"];
    let time = ["std::time::Duration", "std::time::Instant"];
    assert_eq!(imports(code), [&all[..], &time[..]].concat());
}

/// What may have unsafe code: memory that is shared without locks. A name without an ending is a
/// file or a folder.
const UNSAFE: &[&str] = &[
    "counting.rs",
    "entry",
    "prefetch.rs",
    "runtime/door.rs",
    "runtime/ring.rs",
    "runtime/slot.rs",
    "store/reclaim.rs",
    "store/table",
];

#[test]
fn pure_code_does_not_name_the_system() {
    let mut wrong = Vec::new();
    for source in sources("src") {
        let file = source.path.trim_start_matches("src/");
        let imports = imports(&source.code);
        let is_named = |name: &&&str| {
            source.code.contains(**name) || imports.iter().any(|path| path.starts_with(**name))
        };
        let names = IMPURE.iter().filter(is_named);
        if PURE.contains(&room(file)) {
            wrong.extend(names.map(|name| format!("{file} names {name}")));
        }
    }
    assert_none("impure names", &wrong);
}

/// Which protocol a socket serves it need not know.
#[test]
fn sockets_know_neither_shard_nor_store() {
    let mut wrong = Vec::new();
    for (from, to) in Arrows::new(&sources("src")).all() {
        let is_protocol = ["shard", "store", "control", "replication"].contains(&room(to));
        if from.starts_with("runtime/net/") && is_protocol {
            wrong.push(format!("{from} -> {to}"));
        }
    }
    assert_none("arrows from sockets", &wrong);
}

#[test]
fn unsafe_code_is_where_it_belongs() {
    let all = sources("src");
    let may = |source: &&Source| {
        let file = source.path.trim_start_matches("src/");
        let is_in = |part: &str| file == part || file.starts_with(&format!("{part}/"));
        UNSAFE.iter().any(|part| is_in(part))
    };
    let has_any = |source: &&Source| source.code.contains("unsafe ");
    let wrong = all.iter().filter(|source| !may(source)).filter(has_any);
    let wrong: Vec<String> = wrong.map(|source| source.path.clone()).collect();
    assert_none("files with unsafe code", &wrong);
}

/// What names rustls: the folder that speaks TLS, and the file that reads certificates.
const TLS: &[&str] = &["src/runtime/net/tls/", "src/security/certificates.rs"];

#[test]
fn tls_is_named_where_it_is_spoken() {
    let all = sources("src");
    let wrong = all.iter().filter(|source| !TLS.iter().any(|part| source.path.starts_with(part)));
    let names =
        |source: &&Source| ["rustls::", "webpki::"].iter().any(|it| source.code.contains(it));
    let wrong: Vec<String> = wrong.filter(names).map(|source| source.path.clone()).collect();
    assert_none("files that name rustls", &wrong);
}

/// What an app decides, and not a library inside it.
const OF_THE_HOST: &[&str] = &[
    "set_logger",
    "set_boxed_logger",
    "set_max_level",
    "process::exit",
    "process::abort",
    "sigaction",
    "signal(",
    "set_hook",
];

#[test]
fn the_host_application_is_left_alone() {
    let mut wrong = Vec::new();
    for source in sources("src") {
        let found = OF_THE_HOST.iter().filter(|name| source.code.contains(**name));
        wrong.extend(found.map(|name| format!("{}: {name}", source.path)));
    }
    assert_none("a logger, a signal handler, a hook or an end of the process", &wrong);
}

// ── promises ──

/// The page of promises names the tests that hold them: `FILE` or `FILE::TEST`. Each promise names
/// one that exists.
#[test]
fn every_promise_names_a_test_that_exists() {
    let page = fs::read_to_string(source::repository().join("docs/guarantees.md")).unwrap();
    let rows = page.split("| promise | held by |").nth(1).expect("the table of promises");
    let rows: Vec<&str> = rows.lines().skip(2).take_while(|line| line.starts_with("| ")).collect();
    let mut wrong = Vec::new();
    for row in &rows {
        let (_, held_by) = row.trim_end_matches(" |").rsplit_once(" | ").expect("two columns");
        for name in held_by.split(", ") {
            if !is_test(name.trim_matches('`')) {
                wrong.push(format!("{name} of: {row}"));
            }
        }
    }
    assert!(rows.len() > 30, "{} promises", rows.len());
    assert_none("promises of tests that do not exist", &wrong);
}

/// Whether there is such a file, with such a test if one is named.
fn is_test(name: &str) -> bool {
    let (file, test) =
        name.split_once("::").map_or((name, None), |(file, test)| (file, Some(test)));
    let Ok(text) = fs::read_to_string(source::repository().join(file)) else { return false };
    test.is_none_or(|test| {
        let at = text.find(&format!("fn {test}("));
        // Its attribute stands close above it.
        at.is_some_and(|at| text[..at].lines().rev().take(4).any(|line| line.trim() == "#[test]"))
    })
}

// ── length ──

/// Two files fit next to each other on a screen.
const MAX_LINE_CHARS: usize = 100;

/// A file is read in one go. Unit tests do not count.
const MAX_FILE_LINES: usize = 600;

/// What a longer file says in one of its first lines, with the reason.
const WHY_LONGER: &str = "Longer than 600 lines because";

#[test]
fn lines_are_short() {
    let all = FOLDERS.iter().flat_map(|folder| sources(folder));
    let mut wrong = Vec::new();
    for source in all {
        let lines = source.text.lines().enumerate();
        // A link cannot be broken.
        let long = lines
            .filter(|(_, line)| line.chars().count() > MAX_LINE_CHARS && !line.contains("://"));
        wrong.extend(long.map(|(at, line)| {
            format!("{}:{}: {} columns", source.path, at + 1, line.chars().count())
        }));
    }
    assert_none("lines that are too long", &wrong);
}

#[test]
fn files_are_short_or_say_why_not() {
    let all = FOLDERS.iter().flat_map(|folder| sources(folder));
    let mut wrong = Vec::new();
    for source in all {
        let lines = source.text.lines().count() - source.test_lines;
        let says_why = source.text.lines().take(5).any(|line| line.contains(WHY_LONGER));
        if lines > MAX_FILE_LINES && !says_why {
            wrong.push(format!("{}: {lines} lines without its tests", source.path));
        }
    }
    assert_none("files that are too long and do not say why", &wrong);
}

// ── words ──

/// How many marker words may stand in a thousand words of comment. Only ever falls. None may stand
/// in what users read.
const MAX_MARKERS_PER_THOUSAND: f64 = 0.1;

/// How many docs may begin with a fragment. Only ever falls.
const MAX_FRAGMENTS: usize = 5;

/// The text of the Markdown files that users read. `docs/style.md` is for writers, and quotes the
/// markers.
fn pages() -> Vec<Prose> {
    let mut pages = files("docs", ".md");
    pages.retain(|page| !page.ends_with("docs/style.md"));
    pages.push(source::repository().join("README.md"));
    let read = |path: PathBuf| Prose {
        path: relative(&path),
        line: 1,
        text: fs::read_to_string(path).unwrap(),
    };
    pages.into_iter().map(read).collect()
}

/// The folder under which a file's figures are given: its room, in `src` and `tests`.
fn folder(path: &str) -> &str {
    let depth = if path.starts_with("src/") || path.starts_with("tests/") { 2 } else { 1 };
    let end = path.match_indices('/').nth(depth - 1).map(|(end, _)| end);
    end.map_or(path.trim_end_matches(".rs"), |end| &path[..end])
}

#[test]
fn comments_have_few_marker_words() {
    let sources = FOLDERS.iter().flat_map(|folder| sources(folder)).collect::<Vec<_>>();
    let mut folders: BTreeMap<&str, Vec<Prose>> = BTreeMap::new();
    let comments = prose::comments(&sources);
    for source in &sources {
        folders
            .entry(folder(&source.path))
            .or_default()
            .extend(prose::comments(slice::from_ref(source)));
    }
    let mut table = String::new();
    for (folder, comments) in &folders {
        row(&mut table, folder, &Count::of(comments));
    }
    let all = Count::of(&comments);
    row(&mut table, "all comments", &all);
    println!("{table}");
    let rate = all.per_thousand();
    assert!(
        rate <= MAX_MARKERS_PER_THOUSAND,
        "{rate:.2} marker words in 1,000, and not {MAX_MARKERS_PER_THOUSAND}:\n{table}{}",
        all.markers.join("\n")
    );
}

#[test]
fn public_docs_have_no_marker_words() {
    let docs = Count::of(&prose::public_docs(&sources("src")));
    let pages = Count::of(&pages());
    let mut table = String::new();
    row(&mut table, "public docs", &docs);
    row(&mut table, "README, docs/", &pages);
    println!("{table}");
    let found = [docs.markers, pages.markers].concat();
    assert_none("marker words in what users read", &found);
}

fn row(table: &mut String, what: &str, count: &Count) {
    let (markers, words, rate) = (count.markers.len(), count.words, count.per_thousand());
    writeln!(table, "{what:22} {words:6} words {markers:5} markers {rate:6.2} in 1,000").unwrap();
}

#[test]
fn docs_begin_with_a_whole_sentence() {
    let all = FOLDERS.iter().flat_map(|folder| prose::fragments(&sources(folder)));
    let found: Vec<String> = all.collect();
    println!("{} docs begin with a fragment", found.len());
    assert!(found.len() <= MAX_FRAGMENTS, "{} fragments:\n{}", found.len(), found.join("\n"));
}
