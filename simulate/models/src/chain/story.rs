//! A step as a sentence.

use super::{Action, Chain, Kind, List, Lives, NODES, State};

/// Returns the name of a node.
pub(super) fn name(node: usize) -> char {
    char::from(b'A' + node as u8)
}

fn lives(set: Lives) -> String {
    let name = |node: usize| match set >> (2 * node) & 3 {
        0 => String::new(),
        1 => name(node).to_string(),
        _ => format!("{}'", name(node)),
    };
    (0..NODES).map(name).collect()
}

fn list(list: List) -> String {
    match list.witnesses {
        0 => format!("{{{}}}", lives(list.members)),
        witnesses => format!("{{{} + {}}}", lives(list.members), lives(witnesses)),
    }
}

/// Tells a step.
pub(super) fn tell(chain: &Chain, before: &State, action: Action, after: &State) -> String {
    let at = |node: u8| name(node.into());
    match action {
        Action::Propose { register, slot, value } => {
            let number = chain.number(slot.into());
            let value = list(value);
            format!("{value} is proposed in register {register}, ballot {number}.")
        }
        Action::Promise { register, slot, node } => {
            let ballot = &after.ballots[usize::from(register)][usize::from(slot)];
            let report = match ballot.promises[usize::from(node)] {
                0 | 1 => "nothing".to_owned(),
                slot => list(after.ballots[usize::from(register)][usize::from(slot) - 2].value),
            };
            let number = chain.number(slot.into());
            format!("{} promises ballot {number}, and reports {report} accepted.", at(node))
        }
        Action::Accept { register, slot, node } => {
            let value = list(before.ballots[usize::from(register)][usize::from(slot)].value);
            let number = chain.number(slot.into());
            let next = usize::from(register) + 1;
            let is_decided = before.lists[next].members == 0 && after.lists[next].members != 0;
            let then = if is_decided { format!(" List {next} is decided.") } else { String::new() };
            format!("{} accepts {value} at ballot {number}.{then}", at(node))
        }
        Action::Learn { list, node } => format!("{} learns of list {list}.", at(node)),
        Action::Merge { list, node, from } => {
            let n = usize::from(node);
            let what = match (before.opened[n] <= list, after.opened[n] > list) {
                (true, true) => ", and has it open",
                _ if after.whole[n] > before.whole[n] => ", and is whole",
                _ => "",
            };
            let (node, from, version) = (at(node), at(from), after.data[n]);
            format!("{node} merges {from} for list {list}{what}: version {version}.")
        }
        Action::GiveAway { list, node } => {
            format!("{} is no member of list {list}, and drops its copy.", at(node))
        }
        Action::Crash { node } => format!("{} crashes.", at(node)),
        Action::Restart { node } => format!("{} starts again, empty.", at(node)),
        _ => tell_call(chain, before, action, after),
    }
}

fn tell_call(chain: &Chain, before: &State, action: Action, after: &State) -> String {
    let at = |node: u8| name(node.into());
    let what = |call: u8| match chain.bounds.calls[usize::from(call)] {
        Kind::Stamped(version) => format!("Call {call}, a write of version {version} at R = 1,"),
        Kind::Write => format!("Call {call}, a write,"),
        Kind::Read => format!("Call {call}, a read,"),
    };
    let end = |call: u8| {
        if after.calls[usize::from(call)].phase == 3 { " It ends." } else { "" }
    };
    match action {
        Action::Answer { call, list, node } => {
            let version = after.calls[usize::from(call)].answers[usize::from(node)] - 1;
            format!("{} {} answers version {version} in list {list}.", what(call), at(node))
        }
        Action::Count { call, newest } => {
            format!("{} takes version {newest} for the newest.{}", what(call), end(call))
        }
        Action::Apply { call, list, node } => {
            let (then, version) = (end(call), before.calls[usize::from(call)].version);
            format!("{} {} applies version {version} in list {list}.{then}", what(call), at(node))
        }
        Action::End { call } => format!("{}{}", what(call), end(call)),
        other => format!("{other:?}"),
    }
}
