// SPDX-License-Identifier: LGPL-2.1-or-later
//! The kernel module builds without a word from the compiler or sparse, and the kernel's own scripts
//! find nothing in its sources.

use anyhow::{Result, bail};

use super::tally::Tally;
use super::{Wanted, fresh_log};
use crate::cache::Cache;
use crate::proc::ScratchDir;
use crate::{fast, proc, product, roots, ui};

/// What runs in the root that builds, with the kernel's sources in /build and the module's in /module.
const STYLE: &str = "
    cd /module
    perl /build/source/scripts/checkpatch.pl --no-tree --strict --terse -f *.c *.h Makefile
    perl /build/source/scripts/kernel-doc -none -Werror *.c *.h
";

/// Its sources are as the kernel wants them: checkpatch.pl and kernel-doc are the kernel's own.
pub fn style(cache: &Cache, tally: &mut Tally, wanted: Wanted) -> Result<()> {
    const NAME: &str = "module-style";
    if !wanted(NAME) {
        return Ok(());
    }
    let log = fresh_log(cache, NAME);
    let _lock = cache.lock_builds()?;
    let scratch = ScratchDir::new(&cache.path("tmp"), "style-")?;
    let copy = scratch.path().join("module");
    product::copy_module(&product::module_sources()?, &copy)?;
    let roots = roots::both(cache).and_then(|(_, build)| Ok((build, fast::kernel_entry(cache)?)));
    let result = roots.and_then(|(build, kernel)| {
        ui::step(NAME, &log, || {
            let binds = [(&*kernel, "/build"), (&*copy, "/module")];
            proc::run_logged(roots::in_root(&build, &binds, STYLE), &log)
        })
    });
    match result {
        Ok(()) => tally.pass(1),
        Err(error) => tally.fail(NAME, &error),
    }
    Ok(())
}

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
