// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the daemons have in common: what an operator decides, where their log goes, and what systemd is told.

pub mod config;
mod log;
mod notify;

pub use log::start_log;
pub use notify::tell;

use std::path::Path;
use std::process::ExitCode;

use config::Config;

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
