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
use crate::proc;

/// The note's name.
const NOTE: &str = "checkout";

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
    for entry in std::fs::read_dir(all).into_iter().flatten().flatten() {
        if !owner(&entry.path()).is_some_and(|owner| owner.is_dir()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    claimed(all.join(cache::of_checkout(top).as_str()), top)
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

    #[test]
    fn checkouts_build_apart_and_what_a_removed_one_built_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (all, a, b) = (dir.path().join("all"), dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir(&a).unwrap();
        std::fs::create_dir(&b).unwrap();
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
