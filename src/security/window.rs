//! Which counters of one sender were seen: each is accepted once, in any order within 1024.

/// How far behind the highest counter one may be, plus one. UDP reorders by less.
pub(super) const WINDOW: u64 = 1024;

const WORDS: usize = WINDOW as usize / 64;

/// The counters that were seen, of the last [`WINDOW`] up to the highest.
///
/// A receiver asks [`admits`](Self::admits) before it checks the tag of a datagram, and calls
/// [`mark`](Self::mark) only after the tag was right. A forged datagram with a high counter would
/// otherwise shut out all that its sender sends (RUSTSEC-2024-0011).
#[derive(Clone, Default)]
pub(super) struct Window {
    /// The highest counter that was seen. Zero before the first: senders count from one.
    top: u64,
    /// Counter n is at bit n modulo [`WINDOW`]; the bits are those of top − 1023 to top.
    seen: [u64; WORDS],
}

impl Window {
    /// Whether the counter is neither seen nor too old to tell. It is not zero either.
    pub(super) fn admits(&self, counter: u64) -> bool {
        if counter > self.top {
            return true;
        }
        counter != 0 && self.top - counter < WINDOW && !self.is_seen(counter)
    }

    /// Takes down that an admitted counter was seen.
    pub(super) fn mark(&mut self, counter: u64) {
        debug_assert!(self.admits(counter), "a counter is marked that is not admitted");
        if counter > self.top {
            self.forget_until(counter);
            self.top = counter;
        }
        let (word, bit) = place(counter);
        self.seen[word] |= bit;
    }

    /// Clears the bits of the counters above the highest that was seen, up to this one. They held
    /// those of counters that leave the window.
    fn forget_until(&mut self, counter: u64) {
        if counter - self.top >= WINDOW {
            self.seen = [0; WORDS];
            return;
        }
        for passed in self.top + 1..=counter {
            let (word, bit) = place(passed);
            self.seen[word] &= !bit;
        }
    }

    fn is_seen(&self, counter: u64) -> bool {
        let (word, bit) = place(counter);
        self.seen[word] & bit != 0
    }
}

fn place(counter: u64) -> (usize, u64) {
    let at = counter % WINDOW;
    ((at / 64) as usize, 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn accepts(window: &mut Window, counter: u64) -> bool {
        let is_admitted = window.admits(counter);
        if is_admitted {
            window.mark(counter);
        }
        is_admitted
    }

    #[test]
    fn a_counter_is_accepted_once_and_not_when_it_is_too_old() {
        let mut window = Window::default();
        assert!(!window.admits(0), "senders count from one");
        assert!(accepts(&mut window, 1) && !accepts(&mut window, 1));
        assert!(accepts(&mut window, 5000));
        assert!(!window.admits(5000 - WINDOW), "it would be at the place of the highest");
        for counter in (5000 - WINDOW + 1..5000).rev() {
            assert!(accepts(&mut window, counter) && !accepts(&mut window, counter));
        }
        assert!(!window.admits(1) && !window.admits(0));
        assert!(accepts(&mut window, u64::MAX) && !window.admits(u64::MAX));
        assert!(window.admits(u64::MAX - WINDOW + 1) && !window.admits(u64::MAX - WINDOW));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Ahead(u64),
        Behind(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<(Step, bool)>> {
        let step = prop_oneof![
            6 => (1u64..4).prop_map(Step::Ahead),
            2 => (1u64..2 * WINDOW + 2).prop_map(Step::Ahead),
            1 => prop_oneof![Just(WINDOW - 1), Just(WINDOW), Just(WINDOW + 1), Just(1 << 40)]
                .prop_map(Step::Ahead),
            4 => (0u64..8).prop_map(Step::Behind),
            4 => (0u64..WINDOW + 70).prop_map(Step::Behind),
            2 => (WINDOW - 2..WINDOW + 2).prop_map(Step::Behind),
        ];
        prop::collection::vec((step, prop::bool::weighted(0.9)), 1..600)
    }

    proptest! {
        /// The model remembers every counter for ever.
        #[test]
        fn it_admits_what_a_set_of_all_counters_would(steps in steps()) {
            let mut window = Window::default();
            let mut seen = BTreeSet::new();
            let mut top = 0u64;
            for (step, is_genuine) in steps {
                let counter = match step {
                    Step::Ahead(by) => top + by,
                    Step::Behind(by) => top.saturating_sub(by),
                };
                let is_recent = counter > 0 && counter + WINDOW > top;
                let expected = is_recent && !seen.contains(&counter);
                prop_assert_eq!(window.admits(counter), expected, "{} of {}", counter, top);
                if expected && is_genuine {
                    window.mark(counter);
                    seen.insert(counter);
                    top = top.max(counter);
                }
            }
        }
    }
}
