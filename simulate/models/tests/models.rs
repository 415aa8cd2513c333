//! Every short scenario has no fault in any state, and every mutant has one.
//!
//! Run with `--release`: some ten million states are visited. `README.md` in this folder has the
//! rule, and `simulate/RESULTS.md` how many states each scenario has.

use gridkv_models::chain::Chain;
use gridkv_models::explorer::{Model, Report, explore};
use gridkv_models::scenarios::{self, Scenario};

/// More states than any short scenario has.
const MOST: usize = 20_000_000;

fn assert_sound<M: Model>(model: &M, name: &str) {
    let Report { states, is_complete, fault, .. } = explore(model, MOST);
    if let Some(story) = fault {
        panic!("{name}: {}\nafter:\n{}", story.fault, story.steps.join("\n"));
    }
    assert!(is_complete, "{name}: not all states were visited, but {states}");
}

fn short() -> impl Iterator<Item = Scenario> {
    scenarios::all().into_iter().filter(|scenario| !scenario.is_long)
}

#[test]
fn lists_are_a_chain_that_loses_nothing() {
    for Scenario { name, bounds, .. } in short() {
        assert_sound(&Chain { bounds, mutant: None }, name);
    }
}

#[test]
fn a_chain_without_one_of_its_rules_has_a_fault() {
    for (mutant, name) in scenarios::mutants() {
        let bounds = scenarios::named(name).expect("a scenario has that name").bounds;
        let report = explore(&Chain { bounds, mutant: Some(mutant) }, MOST);
        assert!(report.fault.is_some(), "{mutant:?} does not show in {name:?}");
    }
}

#[test]
fn forks_are_joined_again_and_lose_nothing() {
    for fork in scenarios::forks() {
        assert_sound(&fork, &format!("{fork:?}"));
    }
}

#[test]
fn forks_without_one_of_their_rules_have_a_fault() {
    for fork in scenarios::fork_mutants() {
        assert!(explore(&fork, MOST).fault.is_some(), "{fork:?} shows no fault");
    }
}
