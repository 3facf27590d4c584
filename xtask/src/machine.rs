// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the machine we run on must have, and the installing of what it lacks.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::{proc, ui};

/// For making images and running the lab.
const LAB_PACKAGES: &[&str] = &[
    "busybox-static",
    "ca-certificates",
    "cpio",
    "debhelper",
    "debian-archive-keyring",
    "dh-dkms",
    "dpkg-dev",
    "e2fsprogs",
    "iproute2",
    "kmod",
    "mmdebstrap",
    "openssh-client",
    "rpm",
    "xz-utils",
    "zstd",
];

/// For building and testing the workspace's crates, and for looking at its scripts.
const BUILD_PACKAGES: &[&str] = &[
    "clang",
    "dbus-daemon",
    "gcc",
    "libc6-dev",
    "libclang-dev",
    "libdevmapper-dev",
    "libudev-dev",
    "libvirt-dev",
    "make",
    "pkg-config",
    "pyflakes3",
    "selinux-policy-dev",
    "shellcheck",
    "systemd",
];

const QEMU_PACKAGE: &str = "qemu-system-x86";

/// Installs the Debian packages that building and the lab need and that are missing.
pub fn ensure_packages(cache: &Cache) -> Result<()> {
    let mut missing: Vec<&str> =
        LAB_PACKAGES.iter().chain(BUILD_PACKAGES).copied().filter(|p| !installed(p)).collect();
    // QEMU goes alone: where qemu-utils is newer than the archive's, the two
    // exclude each other, and naming only this one lets apt settle it.
    let qemu = !installed(QEMU_PACKAGE);
    if missing.is_empty() && !qemu {
        return Ok(());
    }
    if qemu {
        missing.push(QEMU_PACKAGE);
    }
    if !rustix::process::geteuid().is_root() {
        bail!("as root, install the missing packages: apt-get install {}", missing.join(" "));
    }
    install(cache, &missing, qemu)
}

fn install(cache: &Cache, missing: &[&str], qemu: bool) -> Result<()> {
    let log = cache.log("packages");
    let name = format!("Installing Debian packages: {}", missing.join(" "));
    ui::step(&name, &log, || {
        // A third party's archive that cannot be reached is not our concern:
        // what matters is whether the packages can be installed.
        let _ = proc::run_logged(apt(&["update"]), &log);
        let plain: Vec<&str> = missing.iter().copied().filter(|p| *p != QEMU_PACKAGE).collect();
        if !plain.is_empty() {
            proc::run_logged(apt(&[&["install"], plain.as_slice()].concat()), &log)?;
        }
        if qemu {
            proc::run_logged(apt(&["install", QEMU_PACKAGE]), &log)?;
        }
        Ok(())
    })
}

fn apt(args: &[&str]) -> Command {
    let mut command = proc::command("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=600"])
        .args(args);
    command
}

fn installed(package: &str) -> bool {
    proc::capture("dpkg-query", &["-W", "-f", "${db:Status-Status}", package])
        .is_ok_and(|status| status == "installed")
}

/// Fails early, with a sentence, where the lab cannot run at all.
pub fn check() -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the lab's hosts are x86_64 machines and are run only on such a machine");
    }
    proc::capture("dpkg-query", &["--version"])
        .context("the lab is built from Debian packages: this needs a Debian machine")?;
    Ok(())
}
