// SPDX-License-Identifier: LGPL-2.1-or-later
//! What systemd is told: that we are ready, alive, and about to end.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::warn;

/// Tells it; without systemd this does nothing.
pub fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(false, &[state]) {
        warn!("systemd cannot be told: {error}");
    }
}

/// Says "alive" at half of the interval that systemd expects, for as long as tasks are run.
pub async fn watchdog() {
    let mut micros = 0;
    if !sd_notify::watchdog_enabled(false, &mut micros) {
        return std::future::pending().await;
    }
    let mut beat = tokio::time::interval(Duration::from_micros(micros) / 2);
    loop {
        beat.tick().await;
        tell(NotifyState::Watchdog);
    }
}
