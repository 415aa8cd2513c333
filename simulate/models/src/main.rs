//! Searches the models, and tells what was found.
//!
//! ```sh
//! cargo run --release -p gridkv-models                # every short scenario, and every mutant
//! cargo run --release -p gridkv-models -- --long      # the long ones too
//! cargo run --release -p gridkv-models -- NAME …      # these scenarios
//! cargo run --release -p gridkv-models -- --stories   # with the story of each mutant
//! ```
//!
//! The exit status is 1 if a rule is broken or a mutant is not noticed, and 2 if the arguments are
//! wrong.
#![expect(clippy::disallowed_methods, reason = "a program that measures its own time")]

use std::fmt::Debug;
use std::process::ExitCode;
use std::time::Instant;

use gridkv_models::chain::{Chain, Mutant};
use gridkv_models::explorer::{Model, Report, Story, explore};
use gridkv_models::scenarios::{self, Scenario};

/// How many states a search may have: some 20 bytes for each, and 200 for each on the frontier.
const MOST: usize = 100_000_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (flags, names): (Vec<_>, Vec<_>) =
        arguments.into_iter().partition(|it| it.starts_with("--"));
    let has = |flag: &str| flags.iter().any(|it| it == flag);
    let all = scenarios::all();
    let is_known = |name: &&String| !all.iter().any(|scenario| scenario.name == **name);
    if let Some(unknown) = names.iter().find(is_known) {
        eprintln!("there is no scenario {unknown:?}");
        return ExitCode::from(2);
    }
    let is_asked = |scenario: &&Scenario| match names.is_empty() {
        true => has("--long") || !scenario.is_long,
        false => names.iter().any(|name| name == scenario.name),
    };
    println!("| scenario | without | states | steps | depth | seconds | found |");
    println!("| --- | --- | ---: | ---: | ---: | ---: | --- |");
    let mut is_well = true;
    for scenario in all.iter().filter(is_asked) {
        is_well &= search(scenario, None, true).is_none();
    }
    let with_mutants = names.is_empty() || has("--mutants");
    for (mutant, name) in scenarios::mutants().into_iter().filter(|_| with_mutants) {
        let scenario = scenarios::named(name).expect("a scenario has that name");
        is_well &= search(&scenario, Some(mutant), has("--stories")).is_some();
    }
    for fork in scenarios::forks().into_iter().chain(scenarios::fork_mutants()) {
        let name = format!("forks {:05b}, {} crashes", fork.lists, fork.crashes);
        let is_mutant = fork.mutant.is_some();
        if with_mutants {
            let is_told = !is_mutant || has("--stories");
            let fault = row(&name, fork.mutant, &fork, is_told);
            is_well &= fault.is_some() == is_mutant;
        }
    }
    if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn search(scenario: &Scenario, mutant: Option<Mutant>, is_told: bool) -> Option<Story> {
    let chain = Chain { bounds: scenario.bounds.clone(), mutant };
    row(scenario.name, mutant, &chain, is_told)
}

fn most() -> usize {
    std::env::var("MOST").ok().and_then(|most| most.parse().ok()).unwrap_or(MOST)
}

/// Searches, prints a row, and the story if it is wanted.
fn row<M: Model, T: Debug>(
    name: &str,
    without: Option<T>,
    model: &M,
    is_told: bool,
) -> Option<Story> {
    let began = Instant::now();
    let Report { states, steps, depth, is_complete, fault } = explore(model, most());
    let seconds = began.elapsed().as_secs_f64();
    let without = without.map_or(String::from("—"), |mutant| format!("{mutant:?}"));
    let found = match &fault {
        Some(story) => &story.fault,
        None if is_complete => "nothing",
        None => "nothing, cut short",
    };
    println!("| {name} | {without} | {states} | {steps} | {depth} | {seconds:.1} | {found} |");
    if let Some(story) = fault.as_ref().filter(|_| is_told) {
        for (number, step) in story.steps.iter().enumerate() {
            println!("    {:2}. {step}", number + 1);
        }
        println!("    So: {}", story.fault);
    }
    fault
}
