// SPDX-License-Identifier: LGPL-2.1-or-later
//! The kernel module builds without a word from the compiler or sparse.

use anyhow::{Result, bail};

use super::tally::Tally;
use super::{Wanted, fresh_log};
use crate::cache::Cache;
use crate::proc::ScratchDir;
use crate::{proc, product, roots, ui};

/// Builds it for the hosts' own kernel or that of another release.
pub fn build(cache: &Cache, tally: &mut Tally, wanted: Wanted, suite: Option<&str>) -> Result<()> {
    let name = format!("module-{}", suite.unwrap_or(roots::SUITE));
    if !wanted(&name) {
        return Ok(());
    }
    let log = fresh_log(cache, &name);
    let _lock = cache.lock_builds()?;
    let scratch = ScratchDir::new(&cache.path("tmp"), "check-")?;
    let kernel = match suite {
        Some(suite) => roots::kernel(cache, suite),
        None => roots::both(cache).map(|(host, build)| product::own_kernel(&host, &build)),
    };
    let result = kernel.and_then(|kernel| {
        ui::step(&name, &log, || {
            let sources = product::module_sources()?;
            let make = product::make_module(scratch.path(), &sources, &kernel, "check")?;
            proc::run_logged(make, &log)?;
            let text = std::fs::read_to_string(&log)?;
            match text.lines().find(|l| l.contains("warning:") || l.contains("error:")) {
                Some(line) => bail!("the build is not silent: {line}"),
                None => Ok(()),
            }
        })
    });
    match result {
        Ok(()) => tally.pass(1),
        Err(error) => tally.fail(&name, &error),
    }
    Ok(())
}
