//! What stands for `Secured` without the feature `security`: there is none.

#![forbid(unsafe_code)]

use super::net::Net;
use crate::config::Settings;
use crate::control::Control;
use crate::error::StartError;
use crate::types::ClusterHash;

/// There is none.
pub(crate) enum Secured {}

impl Secured {
    pub(super) fn at_start(
        _settings: &Settings,
        _cluster: ClusterHash,
    ) -> Result<Option<Self>, StartError> {
        Ok(None)
    }

    pub(super) fn secure_net(&self, _net: &mut Net) {
        match *self {}
    }

    pub(super) fn seal(&self, _control: &mut Control) -> Result<(), StartError> {
        match *self {}
    }
}
