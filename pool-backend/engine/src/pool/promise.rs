// SPDX-License-Identifier: LGPL-2.1-or-later
//! How much capacity a pool promises: the limit in its policy.

use virtnotify_model::{BackendError, Bytes};

use super::core::Core;
use super::{Admin, Shared};

impl Shared {
    /// Refuses a capacity in the place of another one if the volumes would have more together than
    /// the policy allows. The caller holds `admin` until the volume is shown, or occupied.
    pub(super) fn check_promise(
        &self,
        _admin: &Admin,
        capacity: Bytes,
        before: Bytes,
    ) -> Result<(), BackendError> {
        let Some(overcommit) = self.policy().overcommit else { return Ok(()) };
        let info = self.view().info();
        let promised = info.promised.saturating_add(self.core().promised_unshown());
        let limit = overcommit.of(info.obtainable);
        let more = capacity.saturating_sub(before);
        if more == Bytes::ZERO || promised.saturating_add(more) <= limit {
            return Ok(());
        }
        let reason = format!(
            "the policy of the pool '{}' allows its volumes {limit} together, they have {promised}, \
             and this is {more} more",
            self.name
        );
        Err(BackendError::Capacity { capacity, reason })
    }
}

impl Core {
    /// What volumes have together that get their space before they are shown.
    fn promised_unshown(&self) -> Bytes {
        let made = self.volumes().filter(|(_, volume)| volume.is_being_made());
        made.fold(Bytes::ZERO, |sum, (_, volume)| sum.saturating_add(volume.row().capacity))
    }
}
