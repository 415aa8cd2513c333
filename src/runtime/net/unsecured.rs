//! What stands for [`NetSecurity`] without the feature `security`: there is none.

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::Net;

/// There is none.
pub(crate) enum NetSecurity {}

impl Net {
    /// Is never called.
    pub(crate) fn secure(&mut self, security: Arc<NetSecurity>) {
        match *security {}
    }
}
