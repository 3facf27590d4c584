// SPDX-License-Identifier: LGPL-2.1-or-later
//! Tells systemd that we are ready, alive, or about to end.

use sd_notify::NotifyState;
use tracing::warn;

/// Tells it; without systemd this does nothing.
pub fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(false, &[state]) {
        warn!("systemd cannot be told: {error}");
    }
}
