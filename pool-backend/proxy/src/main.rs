// SPDX-License-Identifier: LGPL-2.1-or-later
//! The program on libvirt's storage sockets.
//!
//! It is apart from virtnotifyd, which serves growth: whatever becomes of pools of type `notify`, of
//! their configuration or of their kernel module, libvirt's own pools go on. It is started and
//! stopped at will; VMs that write do not need it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};
use virtnotify_driver::pools_on_disk;
use virtnotify_program::{WRONG_CONFIGURATION, start_log, tell};
use virtnotify_proxy::settings::{Paths, Settings};
use virtnotify_proxy::{Access, Listener, bind, from_systemd};
use virtnotify_remote::Remote;

/// Answers libvirt's clients for pools of type notify, and passes all else on to virtstoraged.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration; defaults hold when there is none.
    #[arg(long, default_value = "/etc/virtnotify/proxy.toml")]
    config: PathBuf,
    /// What is logged: a level, or a filter such as `virtnotify_proxy=debug`.
    #[arg(long, default_value = "info")]
    log: String,
    /// Say whether the configuration is right, and do nothing else.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let settings = Settings::load(&arguments.config);
    if arguments.check {
        return match settings {
            Ok(_) => ExitCode::SUCCESS,
            Err(wrong) => {
                eprintln!("{wrong}");
                ExitCode::from(WRONG_CONFIGURATION)
            }
        };
    }
    let _flusher = start_log(&arguments.log);
    match start(settings_or_defaults(settings, &arguments.config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// Without this program no pool of any type answers, so that a wrong line does not stop it. Its
/// defaults are the strictest: polkit decides about each client.
fn settings_or_defaults<E: std::fmt::Display>(read: Result<Settings, E>, path: &Path) -> Settings {
    read.unwrap_or_else(|wrong| {
        error!("{wrong}");
        warn!("nothing of '{}' counts until it is right: all defaults hold", path.display());
        Settings::default()
    })
}

fn start(settings: Settings) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(run(settings));
    // Threads that wait for an answer must not hold up the end.
    runtime.shutdown_background();
    ended
}

async fn run(settings: Settings) -> Result<(), Box<dyn std::error::Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let Paths { definitions, state, storage, .. } = settings.paths.clone();
    let known = pools_on_disk(virtnotify_driver::Paths { definitions, state });
    let remote: Arc<Remote> = Remote::start(&storage, known);
    let listeners = listeners(&settings.paths)?;
    let until = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tell(NotifyState::Ready);
    info!("ready");
    virtnotify_proxy::run(settings.config(), listeners, remote, until).await;
    tell(NotifyState::Stopping);
    Ok(())
}

/// The sockets that systemd hands over; without systemd, those at the configured paths.
fn listeners(paths: &Paths) -> Result<Vec<Listener>, virtnotify_proxy::listen::ListenError> {
    let passed = from_systemd()?;
    if !passed.is_empty() {
        return Ok(passed);
    }
    let everyone = 0o666;
    Ok(vec![
        bind(&paths.listen_rw, Access::ReadWrite, everyone)?,
        bind(&paths.listen_ro, Access::ReadOnly, everyone)?,
    ])
}
