// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the daemons have in common: their configuration, libvirt's where it concerns us, how they run and end,
//! their log, and what systemd is told.

pub mod config;
mod libvirt;
mod log;
mod notify;

pub use libvirt::LibvirtSettings;
pub use log::start_log;
pub use notify::tell;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use config::{Config, ConfigError};

/// `EX_CONFIG` of <sysexits.h>: starting again does not help.
pub const WRONG_CONFIGURATION: u8 = 78;

/// Says on stderr what is wrong with a configuration.
#[must_use]
pub fn check(path: &Path) -> ExitCode {
    let wrong = match Config::load(path) {
        Ok(config) => config.peers().1,
        Err(wrong) => vec![wrong.to_string()],
    };
    for reason in &wrong {
        eprintln!("{reason}");
    }
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(WRONG_CONFIGURATION) }
}

/// Runs a daemon with a configuration, on a runtime of its own, until it ends; says in the log why it failed.
#[must_use]
pub fn run<T, E>(path: &Path, daemon: impl FnOnce(Config) -> T) -> ExitCode
where
    T: Future<Output = Result<(), E>>,
    E: Error + 'static,
{
    let Err(failure) = start(path, daemon) else { return ExitCode::SUCCESS };
    tracing::error!("{failure}");
    match failure.downcast_ref::<ConfigError>() {
        Some(_) => ExitCode::from(WRONG_CONFIGURATION),
        None => ExitCode::FAILURE,
    }
}

fn start<T, E>(path: &Path, daemon: impl FnOnce(Config) -> T) -> Result<(), Box<dyn Error>>
where
    T: Future<Output = Result<(), E>>,
    E: Error + 'static,
{
    let config = Config::load(path)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(daemon(config));
    // Threads that wait for LVM or libvirt must not hold up the end: whatever they were at is
    // taken up by the next start, as after a kill.
    runtime.shutdown_background();
    Ok(ended?)
}
