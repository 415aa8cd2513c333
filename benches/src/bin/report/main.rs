//! Measures gridkv against its rivals and says which figures are reached.
//!
//! `cargo run --release -p gridkv-benches --bin report -- [--quick] [section…]`; see `README.md`.

mod calls;
mod child;
mod churn;
mod every_live;
mod growth;
mod hits;
mod memory;
mod reads;
mod report;
mod writer;

use std::process::ExitCode;
use std::time::Duration;

use gridkv_benches::compare::Plan;
use gridkv_benches::machine::{self, Cpus, pin};
use report::Report;

/// A section's name, what it measures, and how.
type Section = (&'static str, &'static str, fn(&mut Report, &Plan, &Cpus));

const SECTIONS: &[Section] = &[
    ("read", "reads of 10 k resident keys", reads::resident),
    ("ttl", "reads of keys with a time to live", reads::expiring),
    ("read-1m", "reads of 1 M keys, uniform", reads::million),
    ("get-many", "32 keys at once, of 1 M", reads::many),
    ("writer", "reads while the owner writes flat out", writer::beside),
    ("two-readers", "two reader threads against one", reads::two_readers),
    ("calls", "calls to a core, awake and asleep, one by one and together", calls::reach),
    ("every-live", "writes that wait for every live replica, against W", every_live::writes),
    ("idle", "an engine with nothing to do", calls::idle),
    ("growth", "the longest pause while growing to 10 M keys", growth::pauses),
    ("memory", "bytes a key beyond key and value", memory::overhead),
    ("hit-ratio", "hit ratios at equal numbers of entries", hits::ratios),
    ("rss-churn", "the resident set under a memory limit", churn::resident),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, work] = &arguments[..]
        && flag == child::CHILD
    {
        work_as_child(work);
        return ExitCode::SUCCESS;
    }
    let (plan, wanted) = match parse(&arguments) {
        Ok(parsed) => parsed,
        Err(message) => {
            eprintln!("{message}\n\n{}", usage());
            return ExitCode::FAILURE;
        }
    };
    let cpus = Cpus::given();
    println!("{}", machine::description(&cpus));
    println!(
        "method    {} pairs of slices of {:?}, A B B A; ratios are median [quartiles; range] of \
         the pairs",
        plan.pairs, plan.slice
    );
    println!(
        "data      keys of 20 bytes, values of 100; XXH3-64 and the system's allocator for \
         everybody"
    );
    if plan.quick {
        println!("QUICK: this run proves that the report runs. Its figures mean nothing.");
    }
    pin(cpus.reader);
    let mut report = Report::default();
    for (name, what, measure) in wanted {
        report.open(name, what);
        measure(&mut report, &plan, &cpus);
    }
    report.close();
    ExitCode::SUCCESS
}

/// Does the work of a child process, which a section named for it.
fn work_as_child(work: &str) {
    let number = |text: &str| text.parse().expect("a number");
    match work.split('/').collect::<Vec<_>>()[..] {
        ["memory", name, keys] => memory::fill_store(name, number(keys)),
        ["churn", limit_bytes, written_bytes] => {
            churn::child(number(limit_bytes), number(written_bytes))
        }
        ["idle", kind, seconds] => calls::idle_child(kind, number(seconds)),
        _ => panic!("{work} is no work"),
    }
}

fn parse(arguments: &[String]) -> Result<(Plan, Vec<&'static Section>), String> {
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let mut plan = if quick {
        Plan { slice: Duration::from_millis(100), pairs: 3, quick }
    } else {
        Plan { slice: Duration::from_secs(1), pairs: 15, quick }
    };
    let mut wanted = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--quick" => {}
            "--pairs" => plan.pairs = number(rest.next(), "--pairs")?,
            "--slice-ms" => {
                plan.slice = Duration::from_millis(number(rest.next(), "--slice-ms")? as u64);
            }
            name => {
                let section = SECTIONS.iter().find(|(section, ..)| *section == name);
                wanted.push(section.ok_or_else(|| format!("there is no section {name}"))?);
            }
        }
    }
    if wanted.is_empty() {
        wanted.extend(SECTIONS);
    }
    Ok((plan, wanted))
}

fn number(argument: Option<&String>, option: &str) -> Result<usize, String> {
    let number = argument.and_then(|argument| argument.parse().ok()).filter(|&number| number > 0);
    number.ok_or_else(|| format!("{option} takes a number above 0"))
}

fn usage() -> String {
    let mut usage = "report [--quick] [--pairs N] [--slice-ms N] [section…]\n".to_owned();
    for (name, what, _) in SECTIONS {
        usage += &format!("\n  {name:<12} {what}");
    }
    usage
}
