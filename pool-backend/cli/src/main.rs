// SPDX-License-Identifier: LGPL-2.1-or-later
//! `virt-notify`: what an operator does with virtnotify's pools and volumes.
//!
//! It asks the daemon over D-Bus. Check, dump and restore also work without one, as root: they are
//! for the day when the daemon cannot start a pool. Then this program holds the daemon's lock.
//!
//! - `args`: what can be asked, and the exit codes; man pages and completions come from it;
//! - `client`: the daemon, or this program in its place;
//! - `repair`: check, dump, restore;
//! - `setup`: the daemon in front of libvirt, or away again;
//! - `status`, `top`, `events`, `map`: what there is; `objects`: the daemon's objects on D-Bus;
//! - `notify`: an operator's programs for events;
//! - `usage`: which VM used how much; `history`: how full a pool was; `since`: times as people name them;
//! - `migrate`: moving a VM; `plan`: where VMs would go, and which stay; `moves`, `peers`: how moves and peers
//!   are;
//! - `policy`: what a pool does by itself; `retry`: waiting VMs are tried again;
//! - `jobs`: the collector's work: defragment, reclaim, evacuate;
//! - `snapshots`: snapshots and differences; `stream`: sending and receiving them; `virsh`: libvirt;
//! - `names`: volumes as people name them;
//! - `hook`: libvirt's hook, before a guest starts;
//! - `generate`: man pages and completions;
//! - `show`: sizes, tables, output.

mod args;
mod client;
mod events;
mod generate;
mod health;
mod history;
mod hook;
mod jobs;
mod map;
mod migrate;
mod moves;
mod names;
mod notify;
mod objects;
mod peers;
mod plan;
mod policy;
mod repair;
mod retry;
mod settings_page;
mod settle;
mod setup;
mod show;
mod since;
mod snapshots;
mod status;
mod stream;
mod top;
mod usage;
mod virsh;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Args, Command, Format, code};
use crate::client::{Host, Problem};

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            // clap's own status, 2, would be taken for damage.
            return ExitCode::from(if error.use_stderr() { code::USAGE } else { code::FINE });
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => {
            let done = runtime.block_on(run(args));
            // Tasks whose result is not needed any more must not hold up the end.
            runtime.shutdown_background();
            done
        }
        Err(error) => Err(Problem::Cannot(format!("cannot start: {error}"))),
    };
    match done {
        Ok(status) => ExitCode::from(status),
        Err(problem) => {
            eprintln!("virt-notify: {problem}");
            ExitCode::from(problem.code())
        }
    }
}

async fn run(args: Args) -> Result<u8, Problem> {
    let json = args.json;
    let host = one(&args.host);
    match args.command {
        Command::Status { pool, check } => {
            status::run(&args.host, pool.as_deref(), check, json).await
        }
        Command::Top { count } => top::run(host?, count, json).await,
        Command::Usage { since, format } => {
            usage::run(&args.host, &since, format.or(json.then_some(Format::Json))).await
        }
        Command::Policy { action } => policy::run(host?, &action, json).await,
        Command::Retry => retry::run(host?, json).await,
        Command::History { pool, since } => history::run(host?, &pool, &since, json).await,
        Command::Migrate { domain, to, dry_run: true } => {
            plan::run(host?, Some(&domain), to.as_deref(), json).await
        }
        Command::Migrate { domain, to, .. } => {
            migrate::run(host?, &domain, to.as_deref(), json).await
        }
        Command::Plan { domain, to } => {
            plan::run(host?, domain.as_deref(), to.as_deref(), json).await
        }
        Command::Moves => moves::run(host?, json).await,
        Command::Peers => peers::run(host?, json).await,
        Command::Cancel { domain } => migrate::cancel(host?, &domain).await,
        Command::Settle(args) => settle::run(host?, &args, json).await,
        Command::Pin { domain } => plan::pin(host?, &domain, true).await,
        Command::Unpin { domain } => plan::pin(host?, &domain, false).await,
        Command::Drain => plan::drain(host?, json).await,
        Command::Undrain => plan::undrain(host?).await,
        Command::Events(wanted) => events::run(host?, &wanted, json).await,
        Command::Map { volume, svg } => map::run(host?, &volume, svg.as_deref(), json).await,
        Command::Defrag { of } => jobs::defragment(host?, &of, json).await,
        Command::Reclaim { of, zeroes } => jobs::reclaim(host?, &of, zeroes, json).await,
        Command::Evacuate { group, device } => jobs::evacuate(host?, &group, &device, json).await,
        Command::Check { pool } => repair::check(host?, &pool, json).await,
        Command::Dump { pool, from, output } => {
            repair::dump(host?, &pool, from, output.as_deref(), json).await
        }
        Command::Restore(restore) => repair::restore(host?, &restore, json).await,
        Command::Snapshot { action } => snapshots::run(host?, &action, json).await,
        Command::Diff { from, to } => snapshots::diff(host?, &from, &to).await,
        Command::Send { .. } | Command::Receive { .. } if !args.host.is_empty() => {
            let text = "data is read and written where it is: 'ssh HOST virt-notify send', and the \
                        same with receive";
            Err(Problem::Usage(text.into()))
        }
        Command::Send { snapshot, from } => {
            stream::send::run(&snapshot, from.as_deref(), json).await
        }
        Command::Receive { volume } => stream::receive::run(&volume, json).await,
        Command::Setup { .. } | Command::Hook(_) | Command::Generate { .. }
            if !args.host.is_empty() =>
        {
            Err(Problem::Usage("that is done on the host itself".into()))
        }
        Command::Setup { check: true, .. } => setup::check(json),
        Command::Setup { undo, .. } => setup::run(undo, json),
        Command::Hook(words) => hook::run(&words).await,
        Command::Generate { directory } => generate::run(&directory),
    }
}

/// The only host that is named, or this one.
fn one(hosts: &[String]) -> Result<Host<'_>, Problem> {
    match hosts {
        [] => Ok(None),
        [host] => Ok(Some(host)),
        _ => Err(Problem::Usage("only status and usage take more than one host".into())),
    }
}
