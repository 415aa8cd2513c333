//! temporary
use crate::types::Identity;
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Alive,
    Suspect,
    Dead,
    Left,
}
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    pub(crate) identity: Identity,
    pub(crate) state: State,
    pub(crate) leaving: bool,
}
