//! What the tests over processes share.

#[path = "../../support/dice.rs"]
mod dice;
pub(crate) mod forwarder;
pub(crate) mod load;
pub(crate) mod process;
#[path = "../../support/wait.rs"]
mod wait;
pub(crate) mod wires;

pub(crate) use self::dice::Dice;
pub(crate) use self::wait::{LATE, wait_until};
