// SPDX-License-Identifier: LGPL-2.1-or-later
//! Scripts in the lab.
//!
//! Scripts share a boot where the hosts of one have all that another asks for. A script that fails
//! or leaves something behind costs the next ones a fresh boot. One whose guest the emulation lost
//! before it touched a disk runs once more, which is told at the end; under KVM nothing does.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use thiserror::Error;

use super::fresh_log;
use super::scripts::Script;
use super::tally::Tally;
use crate::cache::Cache;
use crate::lab::Lab;
use crate::{HostArgs, ui};

/// A script that could not run its test says so with this status.
const SKIPPED: i32 = 200;
/// The emulation lost a script's guest before it touched a disk: nothing was shown.
const LOST: i32 = 201;
const LEFTOVERS: &str = "tests/lab/leftovers";
/// Looking for what was left behind takes seconds.
const LEFTOVERS_LIMIT: Duration = Duration::from_secs(120);

/// Why a script's run is no pass, where that is no failure.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
enum Unknown {
    #[error("it was skipped: its log says why")]
    Skipped,
    #[error("its guest never came up, so it never touched a disk")]
    Lost {
        /// It may have been the emulation's fault, and not that of the host.
        emulated: bool,
    },
}

/// Where scripts run; the lab, or what stands for it in tests.
trait Place: Sized {
    /// Fresh hosts.
    fn fresh(hosts: &HostArgs) -> Result<Self>;
    /// Runs a script with a limit and returns its status.
    fn run(&mut self, script: &str, log: &Path, limit: Duration) -> Result<i32>;
    /// Whether the emulation may have lost a guest.
    fn loses_guests(&self) -> bool;
}

impl Place for Lab {
    fn fresh(hosts: &HostArgs) -> Result<Self> {
        let lab = crate::start_lab(hosts, None)?;
        let top = crate::top()?;
        // Beside each other as in the checkout: a test of the target runs its examples.
        lab.copy_in(&["tests", "kmod", "docs"].map(|dir| top.join(dir)))?;
        Ok(lab)
    }

    fn run(&mut self, script: &str, log: &Path, limit: Duration) -> Result<i32> {
        self.run_quietly(script, &[], log, limit)
    }

    fn loses_guests(&self) -> bool {
        Self::loses_guests(self)
    }
}

/// Runs all of them, those that can share hosts one after the other.
pub fn run_all(cache: &Cache, tally: &mut Tally, scripts: Vec<Script>) {
    let mut spent = Spent::default();
    for (hosts, scripts) in shared(scripts) {
        let mut group = Group::<Lab> { hosts: &hosts, place: None, spent: &mut spent };
        for script in scripts {
            let log = fresh_log(cache, &script.name);
            group.test(tally, &script, &log);
        }
    }
    if spent.boots > 0 {
        ui::say(&spent.to_string());
    }
}

/// Where the time of the lab went.
#[derive(Default)]
struct Spent {
    boots: usize,
    booting: Duration,
    scripts: Duration,
    leftovers: Duration,
}

impl std::fmt::Display for Spent {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { boots, booting, scripts, leftovers } = self;
        let [booting, scripts, leftovers] = [booting, scripts, leftovers].map(Duration::as_secs);
        write!(
            out,
            "in the lab: {boots} boots took {booting} s, the scripts {scripts} s, looking for what \
             they left behind {leftovers} s"
        )
    }
}

/// Does something and adds the time that it took.
fn timed<T>(spent: &mut Duration, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    *spent += start.elapsed();
    done
}

/// Scripts by the hosts on which they run: those of one that asks for the most.
fn shared(mut scripts: Vec<Script>) -> Vec<(HostArgs, Vec<Script>)> {
    let mut groups = Vec::new();
    while let Some(first) = scripts.first() {
        let mut hosts = first.hosts.clone();
        // The most that can be had of those that fit together.
        while let Some(more) = scripts.iter().find(|s| s.hosts != hosts && s.hosts.covers(&hosts)) {
            hosts = more.hosts.clone();
        }
        let (now, later) = scripts.into_iter().partition(|s| hosts.covers(&s.hosts));
        scripts = later;
        groups.push((hosts, now));
    }
    groups
}

/// Scripts that share hosts.
struct Group<'a, P> {
    hosts: &'a HostArgs,
    /// Hosts that may be used again.
    place: Option<P>,
    spent: &'a mut Spent,
}

impl<P: Place> Group<'_, P> {
    /// Runs a script, once more if the emulation lost its guest.
    fn test(&mut self, tally: &mut Tally, script: &Script, log: &Path) {
        let mut result = self.once(script, log);
        if let Err(error) = &result
            && let Some(Unknown::Lost { emulated: true }) = error.downcast_ref()
        {
            tally.retry(&script.name, &error.root_cause().to_string());
            ui::say(&format!("{}: once more, on fresh hosts: {error:#}", script.name));
            result = self.once(script, log);
        }
        match result {
            Ok(()) => tally.pass(1),
            Err(error) if matches!(error.downcast_ref(), Some(Unknown::Skipped)) => {
                tally.skip(&script.name, &error.root_cause().to_string());
            }
            Err(error) => tally.fail(&script.name, &error),
        }
    }

    /// Runs a script on hosts that are used again only if it passes.
    fn once(&mut self, script: &Script, log: &Path) -> Result<()> {
        let mut place = match self.place.take() {
            Some(place) => place,
            None => {
                self.spent.boots += 1;
                timed(&mut self.spent.booting, || P::fresh(self.hosts))?
            }
        };
        ui::step(&script.name, log, || self.stages(&mut place, script, log))?;
        self.place = Some(place);
        Ok(())
    }

    /// The script, then a look at what it left behind.
    fn stages(&mut self, place: &mut P, script: &Script, log: &Path) -> Result<()> {
        match timed(&mut self.spent.scripts, || place.run(&script.place, log, script.limit))? {
            0 => {}
            SKIPPED => return Err(Unknown::Skipped.into()),
            LOST => return Err(Unknown::Lost { emulated: place.loses_guests() }.into()),
            status => bail!("it ended with status {status}"),
        }
        let look = || place.run(LEFTOVERS, log, LEFTOVERS_LIMIT);
        if timed(&mut self.spent.leftovers, look)? != 0 {
            bail!("it left something behind, or something happened that no test may cause");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
