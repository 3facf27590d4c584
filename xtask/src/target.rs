// SPDX-License-Identifier: LGPL-2.1-or-later
//! Cargo, and where it builds: each checkout in a directory of its own.
//!
//! Cargo goes by times alone: in a directory that two checkouts share, it takes what one of them has
//! built for the other's. Each directory has a note of the checkout to which it belongs; those of the
//! cache go when their checkout has gone.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::{self, Cache};
use crate::proc::{self, ScratchDir};

/// The note's name.
const NOTE: &str = "checkout";
/// What cargo keeps of each crate that it has built, below a profile's directory.
const OF_CRATES: [&str; 3] = [".fingerprint", "build", "deps"];
/// How the names of our own crates begin there.
const OURS: [&str; 6] =
    ["virtnotify", "virt-notify", "virt_notify", "libvirtnotify", "libvirt_notify", "xtask"];

/// Cargo, with its output in the cache instead of the checkout.
pub fn cargo(cache: &Cache) -> Result<Command> {
    let mut command = proc::command("cargo");
    command.env("CARGO_TARGET_DIR", directory(cache)?);
    // Set for us by the cargo that runs us; the inner one finds its own.
    command.env_remove("CARGO_MANIFEST_DIR");
    command.current_dir(crate::top()?);
    Ok(command)
}

/// Where cargo builds this checkout: in the cache, unless the caller has chosen a place.
pub fn directory(cache: &Cache) -> Result<PathBuf> {
    let top = crate::top()?;
    match std::env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()) {
        Some(chosen) => claimed(std::path::absolute(chosen)?, &top),
        None => {
            let _lock = cache.lock("target.lock", "another xtask looks for its directory")?;
            of_checkout(&cache.path("target"), &top)
        }
    }
}

/// The directory of a checkout among those of others.
fn of_checkout(all: &Path, top: &Path) -> Result<PathBuf> {
    let dir = all.join(cache::of_checkout(top).as_str());
    if !dir.exists() {
        // What cannot be taken over is built.
        let _ = take_over(all, &dir);
    }
    let dir = claimed(dir, top)?;
    for entry in std::fs::read_dir(all).into_iter().flatten().flatten() {
        if !owner(&entry.path()).is_some_and(|owner| owner.is_dir()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(dir)
}

/// Begins a directory with the crates of others that another checkout has built. They are the same for
/// both (cargo knows them by version, compiler and features), and most of what there is to build.
fn take_over(all: &Path, dir: &Path) -> Result<()> {
    let tested = std::fs::read_dir(all)?.flatten().map(|entry| entry.path());
    let newest = tested
        .filter(|other| other.join("debug").join(OF_CRATES[2]).is_dir())
        .max_by_key(|other| other.join(NOTE).metadata().and_then(|note| note.modified()).ok());
    let Some(other) = newest else { return Ok(()) };
    let scratch = ScratchDir::new(all, "new-")?;
    for profile in ["debug", "release"] {
        for part in OF_CRATES.iter().filter(|part| other.join(profile).join(part).is_dir()) {
            let (from, to) = (other.join(profile).join(part), scratch.path().join(profile));
            std::fs::create_dir_all(&to)?;
            let mut copy = proc::command("cp");
            // Links: cargo replaces what it builds anew, and does not write into it.
            copy.args(["-al", "-t"]).arg(&to).arg(from);
            proc::run(copy)?;
            remove_ours(&to.join(part))?;
        }
    }
    Ok(std::fs::rename(scratch.release(), dir)?)
}

/// Removes what was built of our own crates: the other checkout's are not this one's.
fn remove_ours(part: &Path) -> Result<()> {
    for entry in std::fs::read_dir(part)?.flatten() {
        let name = entry.file_name();
        if OURS.iter().any(|ours| name.to_string_lossy().starts_with(ours)) {
            let path = entry.path();
            if path.is_dir() { std::fs::remove_dir_all(path)? } else { std::fs::remove_file(path)? }
        }
    }
    Ok(())
}

/// The directory, which is the checkout's from now on.
fn claimed(dir: PathBuf, top: &Path) -> Result<PathBuf> {
    match owner(&dir) {
        Some(owner) if owner == top => return Ok(dir),
        Some(owner) => {
            bail!("{} has what {} built: choose another place", dir.display(), owner.display())
        }
        None => {}
    }
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join(NOTE), top.display().to_string())
        .with_context(|| format!("cannot write into {}", dir.display()))?;
    Ok(dir)
}

/// The checkout to which a directory belongs.
fn owner(dir: &Path) -> Option<PathBuf> {
    std::fs::read_to_string(dir.join(NOTE)).ok().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two checkouts, and where they build.
    fn two_checkouts() -> (tempfile::TempDir, PathBuf, [PathBuf; 2]) {
        let dir = tempfile::tempdir().unwrap();
        let checkouts = ["a", "b"].map(|name| dir.path().join(name));
        checkouts.iter().for_each(|checkout| std::fs::create_dir(checkout).unwrap());
        let all = dir.path().join("all");
        (dir, all, checkouts)
    }

    #[test]
    fn checkouts_build_apart_and_what_a_removed_one_built_goes() {
        let (_dir, all, [a, b]) = two_checkouts();
        let of_a = of_checkout(&all, &a).unwrap();
        std::fs::write(of_a.join("program"), "a").unwrap();
        let of_b = of_checkout(&all, &b).unwrap();
        assert_ne!(of_a, of_b);
        assert_eq!(of_checkout(&all, &a).unwrap(), of_a);
        assert!(of_a.join("program").exists() && of_b.exists());
        std::fs::remove_dir(&a).unwrap();
        of_checkout(&all, &b).unwrap();
        assert!(!of_a.exists() && of_b.exists());
    }

    #[test]
    fn a_new_checkout_begins_with_the_crates_of_others() {
        let (_dir, all, [a, b]) = two_checkouts();
        let deps = of_checkout(&all, &a).unwrap().join("debug/deps");
        std::fs::create_dir_all(&deps).unwrap();
        for name in ["libserde-1.rlib", "libvirtnotify_engine-2.rlib", "virt_notify-3"] {
            std::fs::write(deps.join(name), "built").unwrap();
        }
        let of_b = of_checkout(&all, &b).unwrap();
        let found: Vec<_> = std::fs::read_dir(of_b.join("debug/deps")).unwrap().flatten().collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].file_name(), "libserde-1.rlib");
        assert_eq!(owner(&of_b), Some(b));
        assert!(deps.join("virt_notify-3").exists());
    }

    #[test]
    fn a_chosen_place_is_of_one_checkout() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("place");
        for _ in 0..2 {
            claimed(place.clone(), Path::new("/a")).unwrap();
        }
        let error = claimed(place, Path::new("/b")).unwrap_err().to_string();
        assert!(error.contains("has what /a built"), "{error}");
    }
}
