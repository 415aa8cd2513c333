//! [`explore`]: visits every state that a model can reach, breadth first.
//!
//! A model says which state is first, which actions are possible in a state, and what each leads
//! to. The search is deterministic: the same model gives the same numbers and the same story.
//!
//! # Keys instead of states
//!
//! Of a state that was visited only a key of 64 bits is kept. If two states share a key, the second
//! counts as visited, and what only it leads to is not seen. So a collision can hide a fault and
//! never invents one. Among n states the chance of any collision is about n² / 2⁶⁵: three in ten
//! million for three million states.
//!
//! States that differ only in the names of nodes may share a key on purpose: see [`Model::key`].

/// A protocol as states and actions.
pub trait Model {
    /// Everything that decides what can happen next, messages that are on their way included.
    type State: Clone;
    /// One step.
    type Action: Copy;

    /// Returns the state in which every history begins.
    fn first(&self) -> Self::State;

    /// Appends the actions that are possible, in an order that depends on the state only.
    fn actions(&self, state: &Self::State, found: &mut Vec<Self::Action>);

    /// Returns the state after one of those actions.
    fn next(&self, state: &Self::State, action: Self::Action) -> Self::State;

    /// Returns what is wrong in a state, if anything is.
    fn fault(&self, state: &Self::State) -> Option<String>;

    /// Whether an action brings something to its end. A crash does not.
    fn is_progress(&self, action: Self::Action) -> bool;

    /// Returns what is wrong in a state in which no possible action is progress. So a rule that
    /// waits for what never comes is a fault.
    fn fault_at_rest(&self, state: &Self::State) -> Option<String>;

    /// Returns the state's key. Two states may share it if each history of one is a history of the
    /// other with the nodes renamed.
    fn key(&self, state: &Self::State) -> u64;

    /// Tells a step in a sentence.
    fn tell(&self, before: &Self::State, action: Self::Action, after: &Self::State) -> String;
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Report {
    /// The number of distinct states.
    pub states: usize,
    /// The number of steps between them that were taken.
    pub steps: u64,
    /// The length of the longest of the shortest ways to a state.
    pub depth: usize,
    /// Whether every reachable state was visited.
    pub is_complete: bool,
    /// The first fault, if there is any. The search ends with it.
    pub fault: Option<Story>,
}

/// A shortest way to a fault.
#[derive(Clone, Debug)]
pub struct Story {
    /// The steps, one sentence each.
    pub steps: Vec<String>,
    /// What is wrong after the last one.
    pub fault: String,
}

/// Visits every state, or stops at the first fault, or once there are more than `most` states.
pub fn explore<M: Model>(model: &M, most: usize) -> Report {
    let mut search =
        Search { model, seen: Keys::default(), ways: Vec::new(), frontier: Vec::new(), steps: 0 };
    search.run(most)
}

/// How a state was reached first: from which state, and by which of the actions there.
#[derive(Clone, Copy)]
struct Way {
    from: u32,
    action: u16,
}

struct Search<'a, M: Model> {
    model: &'a M,
    seen: Keys,
    ways: Vec<Way>,
    /// The states of the next depth, each with its number.
    frontier: Vec<(M::State, u32)>,
    steps: u64,
}

impl<M: Model> Search<'_, M> {
    fn run(&mut self, most: usize) -> Report {
        let first = self.model.first();
        let mut fault = self.visit(first, Way { from: u32::MAX, action: 0 });
        let (mut depth, mut actions) = (0, Vec::new());
        while fault.is_none() && !self.frontier.is_empty() && self.ways.len() <= most {
            let found = self.widen(&mut actions, most);
            fault = found;
            depth += usize::from(!self.frontier.is_empty() || fault.is_some());
        }
        let is_complete = fault.is_none() && self.frontier.is_empty();
        let fault = fault.map(|(state, fault)| self.story(state, fault));
        Report { states: self.ways.len(), steps: self.steps, depth, is_complete, fault }
    }

    /// Takes every step from the states of one depth.
    fn widen(&mut self, actions: &mut Vec<M::Action>, most: usize) -> Option<(u32, String)> {
        for (state, number) in std::mem::take(&mut self.frontier) {
            actions.clear();
            self.model.actions(&state, actions);
            if !actions.iter().any(|action| self.model.is_progress(*action))
                && let Some(fault) = self.model.fault_at_rest(&state)
            {
                return Some((number, fault));
            }
            for (at, action) in actions.iter().enumerate() {
                self.steps += 1;
                let next = self.model.next(&state, *action);
                let fault = self.visit(next, Way { from: number, action: at as u16 });
                if fault.is_some() {
                    return fault;
                }
            }
            if self.ways.len() > most {
                // What is left of this depth is dropped: the search is not complete.
                self.frontier.push((state, number));
                break;
            }
        }
        None
    }

    /// Keeps a state if it is new, and judges it.
    fn visit(&mut self, state: M::State, way: Way) -> Option<(u32, String)> {
        if !self.seen.insert(self.model.key(&state)) {
            return None;
        }
        let number = u32::try_from(self.ways.len()).expect("memory ends before");
        self.ways.push(way);
        let fault = self.model.fault(&state);
        self.frontier.push((state, number));
        fault.map(|fault| (number, fault))
    }

    /// Walks the way to a state once more, and tells it.
    fn story(&self, state: u32, fault: String) -> Story {
        let mut way = Vec::new();
        let mut at = self.ways[state as usize];
        while at.from != u32::MAX {
            way.push(at.action);
            at = self.ways[at.from as usize];
        }
        let mut state = self.model.first();
        let mut steps = Vec::new();
        for number in way.into_iter().rev() {
            let mut actions = Vec::new();
            self.model.actions(&state, &mut actions);
            let action = actions[usize::from(number)];
            let next = self.model.next(&state, action);
            steps.push(self.model.tell(&state, action, &next));
            state = next;
        }
        Story { steps, fault }
    }
}

/// A set of keys, by open addressing. Zero is no key.
#[derive(Default)]
struct Keys {
    slots: Vec<u64>,
    count: usize,
}

impl Keys {
    /// Whether the key is new.
    fn insert(&mut self, key: u64) -> bool {
        if self.count * 10 >= self.slots.len() * 7 {
            self.grow();
        }
        let is_new = self.place(key.max(1));
        self.count += usize::from(is_new);
        is_new
    }

    fn place(&mut self, key: u64) -> bool {
        let last = self.slots.len() - 1;
        let mut at = key as usize & last;
        while self.slots[at] != 0 {
            if self.slots[at] == key {
                return false;
            }
            at = (at + 1) & last;
        }
        self.slots[at] = key;
        true
    }

    fn grow(&mut self) {
        let wider = vec![0; (self.slots.len() * 2).max(1 << 10)];
        let old = std::mem::replace(&mut self.slots, wider);
        old.into_iter().filter(|key| *key != 0).for_each(|key| {
            self.place(key);
        });
    }
}

/// Mixes bytes into a key, eight at a time.
#[derive(Clone, Copy)]
pub struct Mixer(u64);

impl Default for Mixer {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Mixer {
    /// Mixes in a number.
    #[inline]
    pub fn add(&mut self, number: u64) {
        let wide = u128::from(self.0 ^ number ^ 0xa076_1d64_78bd_642f) * 0xe703_7ed1_a0b4_28db;
        self.0 = ((wide >> 64) as u64 ^ wide as u64).rotate_left(23).wrapping_add(number);
    }

    /// Mixes in bytes.
    #[inline]
    pub fn add_all(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.add(u64::from_le_bytes(word));
        }
    }

    /// Returns the key of all that was mixed in.
    #[must_use]
    pub fn key(mut self) -> u64 {
        self.add(0x2545_f491_4f6c_dd1d);
        self.add(self.0 >> 31);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::{Keys, Mixer, Model, explore};

    /// Two counters up to three. It is a fault if both are two.
    struct Counters {
        is_faulty: bool,
    }

    impl Model for Counters {
        type State = (u8, u8);
        type Action = bool;

        fn first(&self) -> (u8, u8) {
            (0, 0)
        }

        fn actions(&self, state: &(u8, u8), found: &mut Vec<bool>) {
            found.extend((state.0 < 3).then_some(false));
            found.extend((state.1 < 3).then_some(true));
        }

        fn next(&self, state: &(u8, u8), action: bool) -> (u8, u8) {
            if action { (state.0, state.1 + 1) } else { (state.0 + 1, state.1) }
        }

        fn fault(&self, state: &(u8, u8)) -> Option<String> {
            (self.is_faulty && *state == (2, 2)).then(|| "both are two".to_owned())
        }

        fn is_progress(&self, _: bool) -> bool {
            true
        }

        fn fault_at_rest(&self, state: &(u8, u8)) -> Option<String> {
            (*state != (3, 3)).then(|| "it ended early".to_owned())
        }

        fn key(&self, state: &(u8, u8)) -> u64 {
            let mut mixer = Mixer::default();
            mixer.add_all(&[state.0, state.1]);
            mixer.key()
        }

        fn tell(&self, _: &(u8, u8), action: bool, after: &(u8, u8)) -> String {
            format!("{action}: {after:?}")
        }
    }

    #[test]
    fn every_state_is_visited_once() {
        let report = explore(&Counters { is_faulty: false }, 1000);
        assert!(report.is_complete);
        assert_eq!((report.states, report.steps, report.depth), (16, 24, 6));
    }

    #[test]
    fn the_story_of_a_fault_is_a_shortest_one() {
        let story = explore(&Counters { is_faulty: true }, 1000).fault.expect("there is one");
        assert_eq!(story.steps.len(), 4);
        assert_eq!(story.steps[3], "true: (2, 2)");
        assert_eq!(story.fault, "both are two");
    }

    #[test]
    fn a_search_that_was_cut_short_says_so() {
        let report = explore(&Counters { is_faulty: false }, 5);
        assert!(!report.is_complete && report.fault.is_none());
    }

    #[test]
    fn keys_are_found_again_after_growth() {
        let mut keys = Keys::default();
        let key = |number: u64| {
            let mut mixer = Mixer::default();
            mixer.add(number);
            mixer.key()
        };
        assert!((0..10_000).all(|number| keys.insert(key(number))));
        assert!((0..10_000).all(|number| !keys.insert(key(number))));
    }
}
