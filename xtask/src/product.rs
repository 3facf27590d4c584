// SPDX-License-Identifier: LGPL-2.1-or-later
//! The product as it is installed on a host: what `packaging/install.list` names.
//!
//! The list is the one place that says what goes where; it reaches a host as RPMs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, KeyBuilder};
use crate::host::Runner;
use crate::image::{self, HostImage, Item, Overlay};
use crate::proc::ScratchDir;
use crate::roots::Kernel;
use crate::{HostArgs, Libvirt, fast, libvirt, machine, packages, proc, qemu, roots, target, ui};

/// What is installed where.
pub const LIST: &str = "packaging/install.list";
const LAB_UNITS: &[&str] = &["lab-setup.service", "lab-beacon.service", "lab-kvm.service"];
const UNIT_DIR: &str = "/usr/lib/systemd/system/";

/// One line of the list.
pub struct Entry {
    /// What it is.
    pub kind: String,
    /// Where it comes from.
    pub source: String,
    /// Where it goes.
    pub to: String,
    /// Its permissions there.
    #[cfg(test)]
    pub mode: u32,
}

/// The hosts' image with the product in it (unless it is to be left out), and
/// how to run it.
pub fn host_image(cache: &Cache, hosts: &HostArgs) -> Result<(HostImage, Runner)> {
    machine::ensure_packages(cache)?;
    // Cargo has a lock of its own: other builds need not wait for what it builds.
    let binaries = (!hosts.without_product).then(|| build_binaries(cache)).transpose()?;
    let _lock = cache.lock_builds()?;
    let (plain, build_root) = roots::both(cache)?;
    let modular = hosts.libvirt == Libvirt::Modular;
    let libvirt = modular.then(|| libvirt::overlay(cache, &build_root)).transpose()?;
    let other = match hosts.kernel.as_str() {
        roots::FAST | roots::SUITE => None,
        suite => Some(roots::kernel(cache, suite)?),
    };
    let root = roots::variant(cache, &hosts.package, other.as_ref())?;
    let kernel = other.unwrap_or_else(|| own_kernel(&plain, &build_root));
    let mut overlay = Overlay::default();
    if let Some(binaries) = binaries {
        install(cache, &root, &kernel, &binaries, modular, &mut overlay)?;
    }
    let lab = crate::top()?.join("tests/lab/host");
    overlay.add_tree(&lab)?;
    for unit in LAB_UNITS {
        overlay.enable(unit, &lab.join(&UNIT_DIR[1..]).join(unit))?;
    }
    let is_fast = hosts.kernel == roots::FAST;
    let fast = is_fast.then(|| fast::host_kernel(cache)).transpose()?;
    if let Some(fast) = &fast {
        overlay.add_tree(&fast.modules)?;
    }
    let image = image::host(cache, &root, libvirt.as_deref(), &overlay)?;
    let runner = match fast {
        Some(fast) => Runner::Uml(fast.kernel),
        None => Runner::Qemu(qemu::accel(cache, &image)?),
    };
    Ok((image, runner))
}

/// The kernel that the hosts have by themselves.
pub fn own_kernel(root: &roots::HostRoot, build_root: &Path) -> Kernel {
    let (release, build_root) = (root.kernel.clone(), build_root.to_owned());
    Kernel { release, build_root, compiler: "gcc-14" }
}

/// Puts the product into `overlay` as its packages install it, and their files into /root/packages;
/// where units are not to be enabled, that is left to `virt-notify setup`.
fn install(
    cache: &Cache,
    root: &roots::HostRoot,
    kernel: &Kernel,
    binaries: &Path,
    enabled: bool,
    overlay: &mut Overlay,
) -> Result<()> {
    let top = crate::top()?;
    let entries = read_list(&top.join(LIST))?;
    let programs = frozen(cache, binaries, &entries)?;
    let built = module(cache, root, kernel)?;
    let module = built.join("dm-notify.ko");
    let packages = packages::build(cache, &programs, &module, &root.kernel)?;
    overlay.add_tree(&packages.join("root"))?;
    overlay.add_tree(&packages.join("files"))?;
    // What the packages' scripts do on a host that runs.
    let modules = format!("/usr/lib/modules/{}", root.kernel);
    for file in std::fs::read_dir(built.join("depmod"))?.flatten() {
        let to = format!("{modules}/{}", file.file_name().to_string_lossy());
        overlay.0.push((to, Item::File { from: file.path(), mode: 0o644 }));
    }
    for entry in entries.iter().filter(|entry| enabled && entry.kind == "enable") {
        enable(&entries, &entry.source, &top, overlay)?;
    }
    Ok(())
}

/// Reads the list.
pub fn read_list(path: &Path) -> Result<Vec<Entry>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    text.lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [kind, source, to, mode] = words[..] else {
                bail!("{}: not four words: {line}", path.display());
            };
            let _mode = if mode == "-" { 0 } else { u32::from_str_radix(mode, 8)? };
            Ok(Entry {
                kind: kind.into(),
                source: source.into(),
                to: to.into(),
                #[cfg(test)]
                mode: _mode,
            })
        })
        .collect()
}

fn enable(entries: &[Entry], unit: &str, top: &Path, overlay: &mut Overlay) -> Result<()> {
    let place = format!("{UNIT_DIR}{unit}");
    let file = entries.iter().find(|e| e.to == place);
    let file = file.with_context(|| format!("{LIST} enables {unit} but does not install it"))?;
    overlay.enable(unit, &top.join(&file.source))
}

/// Puts the product's programs and files below `root` as the list says; units are not enabled.
pub fn lay_out(programs: &Path, root: &Path) -> Result<()> {
    let top = crate::top()?;
    for entry in read_list(&top.join(LIST))? {
        let to = root.join(entry.to.trim_start_matches('/'));
        let from = match entry.kind.as_str() {
            "binary" => programs.join(&entry.source),
            "file" => top.join(&entry.source),
            "directory" => {
                std::fs::create_dir_all(to)?;
                continue;
            }
            _ => continue,
        };
        std::fs::create_dir_all(to.parent().context("a file has no directory")?)?;
        std::fs::copy(&from, to).with_context(|| format!("{}", from.display()))?;
    }
    Ok(())
}

/// Builds the workspace's programs; returns where they are.
pub fn build_binaries(cache: &Cache) -> Result<PathBuf> {
    let log = cache.log("cargo-build");
    let _ = std::fs::remove_file(&log);
    ui::step("Building the daemon", &log, || {
        let mut command = target::cargo(cache)?;
        command.args([
            "build",
            "--release",
            "--locked",
            "--workspace",
            "--exclude",
            "xtask",
            "--exclude",
            "virtnotify-stress",
            "--bins",
        ]);
        proc::run_logged(command, &log)
    })?;
    Ok(target::directory(cache)?.join("release"))
}

/// Copies of the programs that the next build will not replace while they are being packaged.
fn frozen(cache: &Cache, binaries: &Path, entries: &[Entry]) -> Result<PathBuf> {
    let scratch = ScratchDir::new(&cache.path("tmp"), "binaries-")?;
    let mut key = KeyBuilder::new("binaries");
    let names = || entries.iter().filter(|e| e.kind == "binary").map(|e| e.source.as_str());
    for name in names() {
        let copy = scratch.path().join(name);
        std::fs::copy(binaries.join(name), &copy).with_context(|| format!("no program {name}"))?;
        key = key.file(name, &copy)?;
    }
    cache.entry("binaries", &key.finish(), |dir| {
        for name in names() {
            std::fs::rename(scratch.path().join(name), dir.join(name))?;
        }
        Ok(())
    })
}

/// The kernel module and the hosts' module index with it.
fn module(cache: &Cache, root: &roots::HostRoot, kernel: &Kernel) -> Result<PathBuf> {
    let sources = module_sources()?;
    let mut key = KeyBuilder::new("module 2").text(&kernel.build_root.display().to_string());
    key = key.text(&root.tree.display().to_string());
    for (name, path) in &sources {
        key = key.file(name, path)?;
    }
    cache.entry("module", &key.finish(), |dir| {
        let log = cache.log("module");
        let _ = std::fs::remove_file(&log);
        ui::step("Building the kernel module", &log, || {
            let make = make_module(dir, &sources, kernel, "modules")?;
            proc::run_logged(make, &log)?;
            std::fs::copy(dir.join("source/dm-notify.ko"), dir.join("dm-notify.ko"))?;
            index_modules(root, dir, &log)
        })
    })
}

/// `make TARGET` for a copy of the module's sources inside `dir`.
pub fn make_module(
    dir: &Path,
    sources: &[(String, PathBuf)],
    kernel: &Kernel,
    target: &str,
) -> Result<Command> {
    let copy = dir.join("source");
    copy_module(sources, &copy)?;
    let Kernel { release, compiler, build_root } = kernel;
    let script =
        format!("make -C /module CC={compiler} KDIR=/lib/modules/{release}/build {target}");
    Ok(roots::in_root(build_root, &[(&copy, "/module")], &script))
}

/// Copies the module's sources into a new directory, to be built there.
pub fn copy_module(sources: &[(String, PathBuf)], to: &Path) -> Result<()> {
    std::fs::create_dir(to)?;
    for (name, path) in sources {
        std::fs::copy(path, to.join(name))?;
    }
    Ok(())
}

/// The module's own files, apart from what a build in place leaves among them.
pub fn module_sources() -> Result<Vec<(String, PathBuf)>> {
    let dir = crate::top()?.join("kmod");
    let mut found = Vec::new();
    for file in std::fs::read_dir(&dir).with_context(|| format!("{}", dir.display()))? {
        let path = file?.path();
        let name = crate::file_name(&path)?;
        let source = name.ends_with(".c") || name.ends_with(".h");
        let generated = name.ends_with(".mod.c");
        if (source && !generated) || name == "Makefile" || name == "Kbuild" {
            found.push((name, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Runs depmod over the hosts' modules and ours, without touching their root.
fn index_modules(root: &roots::HostRoot, dir: &Path, log: &Path) -> Result<()> {
    const SCRIPT: &str = r#"
        modules=$1 dir=$2 kernel=$3
        tree=$dir/tree/lib/modules/$kernel
        mkdir -p "$dir/tree/lib/modules" "$dir/depmod"
        cp -al "$modules" "$tree"
        rm -f "$tree"/modules.dep* "$tree"/modules.alias* "$tree"/modules.symbols* \
            "$tree"/modules.builtin.bin "$tree"/modules.builtin.alias.bin "$tree"/modules.softdep \
            "$tree"/modules.devname "$tree"/modules.weakdep
        mkdir "$tree/extra"
        cp "$dir/dm-notify.ko" "$tree/extra/"
        depmod -b "$dir/tree" "$kernel"
        cp "$tree"/modules.dep* "$tree"/modules.alias* "$tree"/modules.symbols* "$dir/depmod/"
        rm -rf "$dir/tree"
    "#;
    let mut command = proc::command("sh");
    command
        .args(["-ec", SCRIPT, "sh"])
        .arg(root.tree.join("usr/lib/modules").join(&root.kernel))
        .arg(dir)
        .arg(&root.kernel);
    proc::run_logged(command, log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_well_formed_and_names_files_that_exist() {
        let top = crate::top().unwrap();
        let entries = read_list(&top.join(LIST)).unwrap();
        let mut overlay = Overlay::default();
        for entry in &entries {
            match entry.kind.as_str() {
                "file" | "apparmor" => {
                    assert!(top.join(&entry.source).exists(), "{} is missing", entry.source)
                }
                "enable" => enable(&entries, &entry.source, &top, &mut overlay).unwrap(),
                "binary" | "module" | "directory" => {}
                other => panic!("unknown kind {other}"),
            }
        }
        assert!(!overlay.0.is_empty(), "nothing is enabled");
    }

    /// Folders of `packaging` of which files make packages, or which packages take by themselves.
    const NOT_INSTALLED: [&str; 4] = ["cockpit", "dkms", "rpm", "selinux"];

    fn files_below(directory: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        let all = entries.flat_map(|path| match path.is_dir() {
            true => files_below(&path),
            false => vec![path],
        });
        all.collect()
    }

    #[test]
    fn what_is_there_to_be_installed_is_in_the_list() {
        let top = crate::top().unwrap();
        let entries = read_list(&top.join(LIST)).unwrap();
        let listed = |path: &Path| entries.iter().any(|entry| Path::new(&entry.source) == path);
        let folders = ["packaging", "hooks", "xml-schemas"];
        let files = folders.iter().flat_map(|folder| files_below(&top.join(folder)));
        let files: Vec<PathBuf> =
            files.map(|file| file.strip_prefix(&top).unwrap().to_owned()).collect();
        assert!(files.len() > 50, "{files:?}");
        for file in files {
            let mut parts = file.iter().filter_map(|part| part.to_str());
            let in_packaging = parts.next() == Some("packaging");
            let folder = parts.next().unwrap_or_default();
            let makes = in_packaging
                && (NOT_INSTALLED.contains(&folder)
                    || ["install", "install.list"].contains(&folder));
            assert!(makes || listed(&file), "{} is not installed", file.display());
        }
    }

    #[test]
    fn the_module_is_made_of_its_sources_alone() {
        let sources = module_sources().unwrap();
        assert!(sources.iter().any(|(name, _)| name == "Makefile"));
        assert!(sources.iter().all(|(name, _)| !name.ends_with(".mod.c")));
    }
}
