// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a fast lab is made of: a kernel, the module for it, and a root.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::FastArgs;
use crate::cache::{Cache, KeyBuilder, NotBuilt};
use crate::{libvirt, proc, product, roots, target, ui};

/// What each kernel has, then what looks for faults, then what a host of the lab needs.
const CONFIG: &str = include_str!("kernel.config");
const CHECKS: &str = include_str!("checks.config");
const HOST: &str = include_str!("host.config");
const RECIPE: &str = include_str!("kernel.sh");
const MODULE: &str = "make -C /module ARCH=um KDIR=/build/source modules";
/// Lays our module, and the list of those that are built in, out as a host has them.
const INDEX: &str = r#"
    kernel=$1 module=$2 dir=$3
    release=$(cat "$kernel/source/include/config/kernel.release")
    modules=$dir/usr/lib/modules/$release
    mkdir -p "$modules/extra"
    cp "$module" "$modules/extra/"
    cp "$kernel"/source/modules.builtin* "$modules/"
    : > "$modules/modules.order"
    ln -s usr/lib "$dir/lib"
    depmod -b "$dir" "$release"
    rm "$dir/lib"
"#;
/// The package of the stress, and its program.
const STRESS: &str = "virtnotify-stress";
const SOURCE_PACKAGE: &str = "linux-source-6.12";

/// The parts, as they lie in the cache.
pub struct Parts {
    /// The directory with the kernel, `linux`.
    pub kernel: PathBuf,
    /// The module.
    pub module: PathBuf,
    /// The Debian tree that is its root.
    pub tree: PathBuf,
    /// The directory of the product's programs, if it is to be there.
    pub programs: Option<PathBuf>,
    /// The program of `cargo xtask stress`, if it is to be there.
    pub stress: Option<PathBuf>,
    /// libvirt's modular daemons as a tree, where the product is.
    pub libvirt: Option<PathBuf>,
}

impl Parts {
    /// Finds the parts that are asked for, and builds those that are missing.
    pub fn make(cache: &Cache, asked: &FastArgs) -> Result<Self> {
        let with_product = asked.product;
        let programs = with_product.then(|| product::build_binaries(cache)).transpose()?;
        let stress = asked.stress.then(|| build_stress(cache)).transpose()?;
        // What is there already is had without waiting for the builds of others.
        let parts = match Self::from(&cache.found_only(), with_product) {
            Err(error) if error.is::<NotBuilt>() => {
                let _lock = cache.lock_builds()?;
                Self::from(cache, with_product)
            }
            found => found,
        };
        Ok(Self { programs, stress, ..parts? })
    }

    fn from(cache: &Cache, with_product: bool) -> Result<Self> {
        let (tree, libvirt) = if with_product {
            let (hosts, build_root) = roots::both(cache)?;
            (hosts.tree, Some(libvirt::overlay(cache, &build_root)?))
        } else {
            (roots::host(cache, &[])?.tree, None)
        };
        let build_root = roots::kernel_sources(cache, SOURCE_PACKAGE)?;
        let kernel = kernel(cache, &build_root, CHECKS)?;
        let module = module(cache, &build_root, &kernel)?;
        Ok(Self { kernel, module, tree, programs: None, stress: None, libvirt })
    }
}

/// The entry of the cache that has the fast lab's kernel: its sources, without the drivers, lie in
/// `source` there.
pub fn kernel_entry(cache: &Cache) -> Result<PathBuf> {
    kernel(cache, &roots::kernel_sources(cache, SOURCE_PACKAGE)?, CHECKS)
}

/// What a host of the lab boots, where its kernel is a process.
pub struct HostKernel {
    /// The directory with the kernel, `linux`.
    pub kernel: PathBuf,
    /// A tree with our module and the index of modules.
    pub modules: PathBuf,
}

/// Builds the kernel for hosts, and the module for it.
pub fn host_kernel(cache: &Cache) -> Result<HostKernel> {
    let build_root = roots::kernel_sources(cache, SOURCE_PACKAGE)?;
    let kernel = kernel(cache, &build_root, HOST)?;
    let module = module(cache, &build_root, &kernel)?;
    let key = KeyBuilder::new(INDEX).text(&module.display().to_string()).finish();
    let modules = cache.entry("fast-index", &key, |dir| {
        let mut command = proc::command("sh");
        command.args(["-ec", INDEX, "sh"]).arg(&kernel).arg(&module).arg(dir);
        proc::run_logged(command, &cache.log("fast-index"))
    })?;
    Ok(HostKernel { kernel, modules })
}

/// Builds the program of the stress.
pub fn build_stress(cache: &Cache) -> Result<PathBuf> {
    let log = cache.log("cargo-build-stress");
    let _ = std::fs::remove_file(&log);
    ui::step("Building the stress", &log, || {
        let mut command = target::cargo(cache)?;
        command.args(["build", "--locked", "--package", STRESS]);
        proc::run_logged(command, &log)
    })?;
    Ok(target::directory(cache)?.join("debug").join(STRESS))
}

/// Builds a kernel that has, beside what each has, what `more` says.
fn kernel(cache: &Cache, build_root: &Path, more: &str) -> Result<PathBuf> {
    let config = [CONFIG, more].concat();
    let key = KeyBuilder::new(RECIPE).text(&config).text(&source_version(build_root)?).finish();
    cache.entry("fast-kernel", &key, |dir| {
        let log = cache.log("fast-kernel");
        let _ = std::fs::remove_file(&log);
        ui::step("Building a kernel that is a process", &log, || {
            let mut command = roots::in_root(build_root, &[(dir, "/build")], RECIPE);
            command.env("CONFIG", &config);
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
        ui::step("Building the kernel module for a kernel that is a process", &log, || {
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
