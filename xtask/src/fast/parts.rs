// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a fast lab is made of: a kernel, the module for it, and a root.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{Cache, KeyBuilder, NotBuilt};
use crate::{proc, product, roots, ui};

const CONFIG: &str = include_str!("kernel.config");
const RECIPE: &str = include_str!("kernel.sh");
const MODULE: &str = "make -C /module ARCH=um KDIR=/build/source modules";
const SOURCE_PACKAGE: &str = "linux-source-6.12";

/// The parts, as they lie in the cache.
pub struct Parts {
    /// The directory with the kernel, `linux`.
    pub kernel: PathBuf,
    /// The module.
    pub module: PathBuf,
    /// The Debian tree that is its root.
    pub tree: PathBuf,
}

impl Parts {
    /// Finds the parts, and builds those that are missing.
    pub fn make(cache: &Cache) -> Result<Self> {
        // What is there already is had without waiting for the builds of others.
        match Self::from(&cache.found_only()) {
            Err(error) if error.is::<NotBuilt>() => {
                let _lock = cache.lock_builds()?;
                Self::from(cache)
            }
            found => found,
        }
    }

    fn from(cache: &Cache) -> Result<Self> {
        let tree = roots::host(cache, &[])?.tree;
        let build_root = roots::kernel_sources(cache, SOURCE_PACKAGE)?;
        let kernel = kernel(cache, &build_root)?;
        let module = module(cache, &build_root, &kernel)?;
        Ok(Self { kernel, module, tree })
    }
}

fn kernel(cache: &Cache, build_root: &Path) -> Result<PathBuf> {
    let key = KeyBuilder::new(RECIPE).text(CONFIG).text(&source_version(build_root)?).finish();
    cache.entry("fast-kernel", &key, |dir| {
        let log = cache.log("fast-kernel");
        let _ = std::fs::remove_file(&log);
        ui::step("Building the fast lab's kernel", &log, || {
            let mut command = roots::in_root(build_root, &[(dir, "/build")], RECIPE);
            command.env("CONFIG", CONFIG);
            proc::run_logged(command, &log)
        })
    })
}

fn source_version(build_root: &Path) -> Result<String> {
    let database = format!("--admindir={}", build_root.join("var/lib/dpkg").display());
    proc::capture("dpkg-query", &[&database, "-W", "-f", "${Version}", SOURCE_PACKAGE])
}

fn module(cache: &Cache, build_root: &Path, kernel: &Path) -> Result<PathBuf> {
    let sources = product::module_sources()?;
    let mut key = KeyBuilder::new(MODULE).text(&kernel.display().to_string());
    for (name, path) in &sources {
        key = key.file(name, path)?;
    }
    let place = cache.entry("fast-module", &key.finish(), |dir| {
        let log = cache.log("fast-module");
        let _ = std::fs::remove_file(&log);
        ui::step("Building the kernel module for the fast lab", &log, || {
            let copy = dir.join("source");
            product::copy_module(&sources, &copy)?;
            let binds = [(kernel, "/build"), (&*copy, "/module")];
            proc::run_logged(roots::in_root(build_root, &binds, MODULE), &log)?;
            std::fs::copy(copy.join("dm-notify.ko"), dir.join("dm-notify.ko"))?;
            std::fs::remove_dir_all(copy).context("cannot remove what the build left")
        })
    })?;
    Ok(place.join("dm-notify.ko"))
}
