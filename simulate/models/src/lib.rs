//! The rules of gridkv's protocol as models, and the search through every state that they have.
//!
//! A rule is written down here before it is built. The simulator runs the real code through some
//! histories; a model is small enough to run through all of them, up to a bound.
//!
//! - [`explorer`] searches any [`Model`](explorer::Model): breadth first, so that what it finds is
//!   the shortest story.
//! - [`chain`] is the model of lists: list k + 1 of a partition is decided among the nodes of
//!   list k. [`chain::Mutant`] has the rules that can be left out.
//! - [`fork`] is the model of lists that no majority decided, and of how nodes leave them again.
//! - [`scenarios`] are the bounds that are searched, and the faults that each mutant must show in.
//!
//! `README.md` has the rule itself, as the text from which it is built.

pub mod chain;
pub mod explorer;
pub mod fork;

pub mod scenarios;
