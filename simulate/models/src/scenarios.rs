//! The bounds that are searched, and where each mutant must show.

use crate::chain::{Bounds, Kind, Mutant, NODES, Nodes, Wish};
use crate::fork::{self, Fork};

/// Bounds with a name.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The name, as `main` takes it.
    pub name: &'static str,
    /// What the bounds are for.
    pub about: &'static str,
    /// Whether it is too large for every run of the tests.
    pub is_long: bool,
    /// What may happen.
    pub bounds: Bounds,
}

fn nodes(names: &str) -> Nodes {
    names.bytes().map(|name| 1 << (name - b'A')).sum()
}

/// Reads a list such as `AB+C`: A and B are members, and C is a witness.
fn wish(names: &str) -> Wish {
    let (members, witnesses) = names.split_once('+').unwrap_or((names, ""));
    Wish { members: nodes(members), witnesses: nodes(witnesses) }
}

fn wishes(lists: &[&str]) -> Vec<Wish> {
    lists.iter().map(|list| wish(list)).collect()
}

/// Reads a permutation such as `ACBDE`: B and C change their names.
fn renaming(names: &str) -> [usize; NODES] {
    let mut found = [0; NODES];
    names.bytes().enumerate().for_each(|(node, name)| found[node] = usize::from(name - b'A'));
    found
}

/// Returns bounds in which nothing can happen yet.
fn bounds(quorums: (u32, u32, u32), first: &str) -> Bounds {
    Bounds {
        quorums,
        first: wish(first),
        holds: 0,
        wishes: [Vec::new(), Vec::new()],
        ballots: [0, 0],
        crashes: (0, 0),
        restarts: false,
        calls: Vec::new(),
        loses_acks: false,
        gives_away: false,
        is_hasty: false,
        stuck: 0,
        symmetries: Vec::new(),
    }
}

/// Returns all scenarios.
#[must_use]
pub fn all() -> Vec<Scenario> {
    let mut all = short();
    all.extend(long());
    all
}

/// Returns a scenario by its name.
#[must_use]
pub fn named(name: &str) -> Option<Scenario> {
    all().into_iter().find(|scenario| scenario.name == name)
}

fn short() -> Vec<Scenario> {
    let scenario = |name, about, bounds| Scenario { name, about, is_long: false, bounds };
    let three = || bounds((3, 2, 2), "ABC");
    let all_three = || Bounds {
        wishes: [wishes(&["ADE+BC"]), Vec::new()],
        ballots: [1, 0],
        symmetries: ["ACBDE", "ABCED", "ACBED"].map(renaming).to_vec(),
        ..bounds((3, 3, 2), "ABC+DE")
    };
    vec![
        scenario(
            "agreement",
            "three ballots for two wishes, an acceptor that restarts, and givers",
            Bounds {
                wishes: [wishes(&["ABD", "BCD"]), Vec::new()],
                ballots: [3, 0],
                crashes: (nodes("B"), 1),
                restarts: true,
                gives_away: true,
                ..three()
            },
        ),
        scenario(
            "deaths",
            "two ballots for two wishes, and two of the three acceptors crash",
            Bounds {
                wishes: [wishes(&["ABD", "BCD"]), Vec::new()],
                ballots: [2, 0],
                crashes: (nodes("ABC"), 2),
                ..three()
            },
        ),
        scenario(
            "half of four",
            "a list of four without a witness, of which two crash: the others are enough",
            Bounds {
                wishes: [wishes(&["ABC", "BCD"]), Vec::new()],
                ballots: [2, 0],
                crashes: (nodes("AB"), 2),
                ..bounds((4, 3, 2), "ABCD")
            },
        ),
        scenario(
            "two nodes decide",
            "a cluster of two nodes, which restart in turn: each decides without the other",
            Bounds {
                wishes: [wishes(&["AB"]), Vec::new()],
                ballots: [3, 0],
                crashes: (nodes("AB"), 2),
                restarts: true,
                ..bounds((2, 2, 2), "AB")
            },
        ),
        scenario(
            "two nodes",
            "a cluster of two nodes: one restarts, and the other decides alone that it is back",
            Bounds {
                wishes: [wishes(&["AB"]), wishes(&["AB"])],
                ballots: [2, 2],
                crashes: (nodes("AB"), 2),
                restarts: true,
                calls: vec![Kind::Stamped(2), Kind::Read],
                ..bounds((2, 2, 2), "AB")
            },
        ),
        scenario(
            "two changes",
            "two ballots for two wishes in one register, and one ballot in the next",
            Bounds {
                wishes: [wishes(&["ABD", "BCD"]), wishes(&["BCD", "ACD"])],
                ballots: [2, 1],
                ..three()
            },
        ),
        scenario(
            "writes",
            "a write at R = 1 over two changes, one of three nodes that crashes, and givers",
            Bounds {
                wishes: [wishes(&["ABD"]), wishes(&["BCD"])],
                ballots: [1, 1],
                crashes: (nodes("ABC"), 1),
                calls: vec![Kind::Stamped(2)],
                gives_away: true,
                ..three()
            },
        ),
        scenario(
            "writes, hasty",
            "the same, with lists that are proposed too early: nothing is lost",
            Bounds {
                wishes: [wishes(&["ABD"]), wishes(&["BCD"])],
                ballots: [1, 1],
                crashes: (nodes("ABC"), 1),
                calls: vec![Kind::Stamped(2)],
                gives_away: true,
                is_hasty: true,
                ..three()
            },
        ),
        scenario(
            "a return",
            "a write at R = 1, and a node that restarts and is a member again after two changes",
            Bounds {
                wishes: [wishes(&["ABD"]), wishes(&["ABC"])],
                ballots: [1, 1],
                crashes: (nodes("C"), 1),
                restarts: true,
                calls: vec![Kind::Stamped(2)],
                gives_away: true,
                ..three()
            },
        ),
        scenario(
            "reads",
            "a write and two reads at R = 2 over one change",
            Bounds {
                wishes: [wishes(&["ABD"]), Vec::new()],
                ballots: [1, 0],
                calls: vec![Kind::Write, Kind::Read, Kind::Read],
                ..three()
            },
        ),
        scenario(
            "reads over two changes",
            "a write and a read at R = 2 over two changes",
            Bounds {
                wishes: [wishes(&["ABD"]), wishes(&["BCD"])],
                ballots: [1, 1],
                calls: vec![Kind::Write, Kind::Read],
                ..three()
            },
        ),
        scenario(
            "two copies",
            "lists of two members and a witness: one of them crashes and comes back",
            Bounds {
                wishes: [wishes(&["BC+A"]), wishes(&["AB+C"])],
                ballots: [2, 1],
                crashes: (nodes("A"), 1),
                restarts: true,
                calls: vec![Kind::Stamped(2), Kind::Read],
                gives_away: true,
                ..bounds((2, 2, 2), "AB+C")
            },
        ),
        scenario(
            "three of three, misses",
            "W = 3 of three members, with two witnesses, and R = 2: a first write and a read",
            Bounds { calls: vec![Kind::Stamped(2), Kind::Read], ..all_three() },
        ),
        scenario(
            "three of three, reads",
            "the same, of a key that there is",
            Bounds { holds: 2, calls: vec![Kind::Stamped(8), Kind::Read], ..all_three() },
        ),
        scenario(
            "three of three, writes",
            "W = 3 of three members, with two witnesses, and R = 2: two writes",
            Bounds { calls: vec![Kind::Stamped(8), Kind::Write], ..all_three() },
        ),
        scenario(
            "skewed clocks",
            "two writes at R = 1, the later one perhaps with the lower stamp, over a change of two",
            Bounds {
                wishes: [wishes(&["ADE"]), Vec::new()],
                ballots: [1, 0],
                crashes: (nodes("B"), 1),
                calls: vec![Kind::Stamped(8), Kind::Stamped(2)],
                symmetries: vec![renaming("ABCED")],
                ..three()
            },
        ),
        scenario(
            "two of three at once",
            "two changes of two members each, one of two nodes that crashes, and givers",
            two_at_once(),
        ),
        scenario(
            "two deaths",
            "lists of three and of two, of which two members crash: copies are restored between",
            Bounds {
                wishes: [wishes(&["ABD", "AB+D"]), wishes(&["ADE", "AB+C"])],
                ballots: [1, 1],
                crashes: (nodes("ABCD"), 2),
                calls: vec![Kind::Stamped(2)],
                gives_away: true,
                ..three()
            },
        ),
        scenario(
            "two of two",
            "N = 3, and there are two nodes: one restarts",
            Bounds {
                wishes: [wishes(&["AB"]), Vec::new()],
                ballots: [2, 0],
                crashes: (nodes("AB"), 1),
                restarts: true,
                calls: vec![Kind::Stamped(2), Kind::Write, Kind::Read],
                ..bounds((3, 2, 2), "AB")
            },
        ),
        scenario(
            "one of three",
            "W = 1: a majority is not enough to decide",
            Bounds {
                wishes: [wishes(&["ABD"]), Vec::new()],
                ballots: [1, 0],
                calls: vec![Kind::Stamped(2)],
                ..bounds((3, 1, 1), "ABC")
            },
        ),
        scenario(
            "a newcomer that is never whole",
            "D merges nothing, and one of the others crashes: lists follow, and others are whole",
            Bounds {
                wishes: [wishes(&["ABD"]), wishes(&["ADE", "BDE"])],
                ballots: [1, 1],
                crashes: (nodes("ABCE"), 1),
                calls: vec![Kind::Stamped(2)],
                gives_away: true,
                stuck: nodes("D"),
                ..three()
            },
        ),
        scenario(
            "a stayer that is never whole",
            "the same of B, which had the first list open",
            Bounds {
                wishes: [wishes(&["ABD"]), wishes(&["ABE", "BDE"])],
                ballots: [1, 1],
                crashes: (nodes("ACDE"), 1),
                calls: vec![Kind::Stamped(2)],
                gives_away: true,
                stuck: nodes("B"),
                ..three()
            },
        ),
        scenario(
            "a newcomer that is never whole, calls",
            "a write and a read at R = 2 over two changes, of whose members D merges nothing",
            Bounds {
                wishes: [wishes(&["ABD"]), wishes(&["ADE"])],
                ballots: [1, 1],
                crashes: (nodes("AB"), 1),
                calls: vec![Kind::Write, Kind::Read],
                stuck: nodes("D"),
                ..three()
            },
        ),
        scenario(
            "short lists",
            "the list shrinks to two members and then to others, with givers and a crash",
            Bounds {
                wishes: [wishes(&["AD+B"]), wishes(&["ACD", "CD+B"])],
                ballots: [1, 1],
                crashes: (nodes("AD"), 1),
                calls: vec![Kind::Stamped(2)],
                gives_away: true,
                ..three()
            },
        ),
    ]
}

/// Returns lists of which two members of three are new, one after the other, a crash and givers.
fn two_at_once() -> Bounds {
    Bounds {
        wishes: [wishes(&["ADE"]), wishes(&["BDE", "AD+E"])],
        ballots: [1, 1],
        crashes: (nodes("AD"), 1),
        calls: vec![Kind::Stamped(2)],
        gives_away: true,
        ..bounds((3, 2, 2), "ABC")
    }
}

fn long() -> Vec<Scenario> {
    let scenario = |name, about, bounds| Scenario { name, about, is_long: true, bounds };
    let three = || bounds((3, 2, 2), "ABC");
    let four = || Bounds {
        wishes: [wishes(&["ABCE+D"]), Vec::new()],
        ballots: [1, 0],
        symmetries: vec![renaming("ACBDE")],
        ..bounds((4, 3, 2), "ABCD+E")
    };
    vec![
        scenario(
            "two of three, replaced twice",
            "two changes, the second one early, each with other newcomers; copies are given away",
            Bounds {
                wishes: [wishes(&["ADE"]), wishes(&["BDE"])],
                ballots: [1, 1],
                crashes: (nodes("ABCDE"), 1),
                calls: vec![Kind::Stamped(2)],
                gives_away: true,
                is_hasty: true,
                ..three()
            },
        ),
        scenario(
            "two of three at once, hasty",
            "as the short one, with lists that are proposed too early: nothing is lost",
            Bounds { is_hasty: true, crashes: (nodes("ABCDE"), 1), ..two_at_once() },
        ),
        scenario(
            "two of three, calls",
            "a write and a read at R = 2 over two changes of two members, proposed too early",
            Bounds {
                wishes: [wishes(&["ADE"]), wishes(&["BDE"])],
                ballots: [1, 1],
                calls: vec![Kind::Write, Kind::Read],
                is_hasty: true,
                ..three()
            },
        ),
        scenario(
            "half of four, writes",
            "2 W = N: a write at R = 1 over two changes, a crash and givers",
            Bounds {
                wishes: [wishes(&["ABCE"]), wishes(&["ABDE"])],
                ballots: [1, 1],
                crashes: (nodes("ABCD"), 1),
                calls: vec![Kind::Stamped(2)],
                gives_away: true,
                ..bounds((4, 2, 1), "ABCD")
            },
        ),
        scenario(
            "five, restarts",
            "W = 3 of five, of which two restart in turn: a write at R = 1",
            Bounds {
                wishes: [wishes(&["ABCDE"]), wishes(&["ABCDE"])],
                ballots: [1, 1],
                crashes: (nodes("AB"), 2),
                restarts: true,
                calls: vec![Kind::Stamped(2)],
                symmetries: ["ABDCE", "ABCED", "ABDEC", "ABECD", "ABEDC"].map(renaming).to_vec(),
                ..bounds((5, 3, 1), "ABCDE")
            },
        ),
        scenario(
            "writes, long",
            "a write at R = 1 over two changes, a crash, a restart and givers",
            Bounds {
                wishes: [wishes(&["ABD"]), wishes(&["BCD", "ABC"])],
                ballots: [1, 1],
                crashes: (nodes("ABC"), 1),
                restarts: true,
                calls: vec![Kind::Stamped(2)],
                gives_away: true,
                ..three()
            },
        ),
        scenario(
            "reads and a crash, long",
            "a write and two reads at R = 2 over one change, two ballots and one of two crashes",
            Bounds {
                wishes: [wishes(&["ABD"]), Vec::new()],
                ballots: [2, 0],
                crashes: (nodes("AC"), 1),
                calls: vec![Kind::Write, Kind::Read, Kind::Read],
                ..three()
            },
        ),
        scenario(
            "lost acknowledgements, long",
            "a write and a read at R = 2 over one change, of which acknowledgements are lost",
            Bounds {
                wishes: [wishes(&["ABD"]), Vec::new()],
                ballots: [1, 0],
                crashes: (nodes("A"), 1),
                calls: vec![Kind::Write, Kind::Read],
                loses_acks: true,
                ..three()
            },
        ),
        scenario(
            "agreement, long",
            "two registers with two ballots and two wishes each, a restart, and givers",
            Bounds {
                wishes: [wishes(&["ABD", "BCD"]), wishes(&["BCD", "ACD"])],
                ballots: [2, 2],
                crashes: (nodes("B"), 1),
                restarts: true,
                gives_away: true,
                ..three()
            },
        ),
        scenario(
            "four copies, reads",
            "a list of four members and a witness, with W = 3 and R = 2: a write and a read",
            Bounds { calls: vec![Kind::Stamped(2), Kind::Read], ..four() },
        ),
        scenario(
            "four copies, writes",
            "a list of four members and a witness, with W = 3 and R = 2: two writes",
            Bounds { calls: vec![Kind::Stamped(8), Kind::Write], ..four() },
        ),
    ]
}

/// Returns the mutants, each with the scenario in which it must show.
#[must_use]
pub fn mutants() -> Vec<(Mutant, &'static str)> {
    vec![
        (Mutant::SealedApplies, "writes"),
        (Mutant::SealedAnswers, "reads"),
        (Mutant::TooFewSources, "writes"),
        (Mutant::PendingSource, "writes"),
        (Mutant::SourceUnaware, "writes"),
        (Mutant::OpensAtOnce, "writes"),
        (Mutant::JumpStaysOpen, "writes"),
        (Mutant::OnlyCounts, "two of two"),
        (Mutant::ProposesEarly, "two of three at once"),
        (Mutant::AwaitsTheStuck, "a newcomer that is never whole"),
        (Mutant::IdleIgnored, "a newcomer that is never whole"),
        (Mutant::IdleUnaware, "writes, hasty"),
        (Mutant::IdleWithoutBase, "writes, hasty"),
        (Mutant::ReceiptsOfPending, "two of three at once"),
        (Mutant::PendingCounts, "skewed clocks"),
        (Mutant::PendingAnswers, "reads"),
        (Mutant::AcceptsBelowPromise, "agreement"),
        (Mutant::NoPromises, "agreement"),
        (Mutant::IgnoresReports, "agreement"),
        (Mutant::ReusesBallot, "agreement"),
        (Mutant::KeepsIdentity, "agreement"),
        (Mutant::MembersNotCounted, "one of three"),
        (Mutant::GoneLater, "two nodes decide"),
        (Mutant::DeadExcused, "deaths"),
        (Mutant::ForgetsRegister, "agreement"),
        (Mutant::DropsAtDecision, "writes"),
        (Mutant::AcksAcrossLists, "writes"),
        (Mutant::AsksFew, "three of three, writes"),
        (Mutant::ReadGoesOn, "three of three, reads"),
        (Mutant::MissOfFew, "three of three, misses"),
        (Mutant::NoConfirmation, "reads"),
    ]
}

/// Returns the models of forks that are searched.
#[must_use]
pub fn forks() -> Vec<Fork> {
    let fork = |crashes, lists| Fork { crashes, lists, mutant: None };
    vec![
        fork(1, 0b0_0110),
        fork(1, 0b0_1010),
        fork(1, 0b0_1100),
        fork(0, 0b0_1110),
        fork(1, 0b1_1000),
        fork(0, 0b1_1010),
    ]
}

/// Returns them with a rule left out, each of which must show a fault.
#[must_use]
pub fn fork_mutants() -> Vec<Fork> {
    use fork::Mutant;
    let fork = |lists, mutant| Fork { crashes: 0, lists, mutant: Some(mutant) };
    vec![
        fork(0b0_0110, Mutant::MovesUnsealed),
        fork(0b0_0110, Mutant::MovesOpen),
        fork(0b0_0110, Mutant::OwesNothing),
        fork(0b0_0110, Mutant::DropsWhatItOwes),
        fork(0b1_1100, Mutant::ReceiptsAcrossLists),
        fork(0b0_0100, Mutant::ParentWins),
        fork(0b0_1100, Mutant::EitherWins),
    ]
}
