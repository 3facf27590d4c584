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

/// Says "alive" at a quarter of the interval that systemd expects, for as long as tasks are run and
/// `silence` says that volumes are served: a process that does everything else is of no use to a
/// guest that waits.
pub async fn watchdog(silence: impl Fn() -> Duration) {
    let mut micros = 0;
    if !sd_notify::watchdog_enabled(false, &mut micros) {
        return std::future::pending().await;
    }
    let interval = Duration::from_micros(micros);
    let mut beat = tokio::time::interval(interval / 4);
    loop {
        beat.tick().await;
        let silent = silence();
        if silent < interval / 2 {
            tell(NotifyState::Watchdog);
        } else {
            warn!("no volume was served for {} s", silent.as_secs());
        }
    }
}
