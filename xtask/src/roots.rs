// SPDX-License-Identifier: LGPL-2.1-or-later
//! Debian root directories: the hosts', and the one that builds for them.
//!
//! Both are plain directories in the cache, made by `mmdebstrap`. Commands run
//! in them in a mount namespace of their own, so nothing stays mounted when
//! they end, however they end.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use crate::cache::{Cache, KeyBuilder};
use crate::{proc, ui};

/// The Debian release of the lab's hosts.
pub const SUITE: &str = "trixie";

/// What an operator's host would have, and what tests use there.
const HOST_PACKAGES: &[&str] = &[
    "attr",
    "bsdextrautils",
    "busybox-static",
    "ca-certificates",
    "cpio",
    "dbus",
    "dmsetup",
    "dnsmasq-base",
    "e2fsprogs",
    "fdisk",
    "file",
    "fio",
    "gdisk",
    "hdparm",
    "iproute2",
    "iptables",
    "iputils-ping",
    "jq",
    "kmod",
    "less",
    "libglib2.0-bin",
    "libvirt-clients",
    "libvirt-daemon-driver-qemu",
    "libvirt-daemon-system",
    "linux-image-amd64",
    "lsof",
    "lvm2",
    "netcat-openbsd",
    "nftables",
    "openssh-server",
    "parted",
    "polkitd",
    "procps",
    "psmisc",
    "python3",
    "python3-dbus",
    "python3-gi",
    "python3-libvirt",
    "qemu-system-x86",
    "qemu-utils",
    "rpm",
    "rsync",
    "sg3-utils",
    "socat",
    "strace",
    "systemd",
    "systemd-sysv",
    "thin-provisioning-tools",
    "udev",
    "util-linux-extra",
    "vim-tiny",
    "virtinst",
    "xfsprogs",
    "xxd",
    "xz-utils",
    "zstd",
];

/// What builds the kernel module and libvirt's daemons.
const BUILD_PACKAGES: &[&str] = &[
    "ca-certificates",
    "dmsetup",
    "dnsmasq-base",
    "dpkg-dev",
    "gcc",
    "gcc-14",
    "gettext",
    "iptables",
    "kmod",
    "libacl1-dev",
    "libattr1-dev",
    "libblkid-dev",
    "libcap-ng-dev",
    "libcurl4-gnutls-dev",
    "libdevmapper-dev",
    "libglib2.0-dev",
    "libgnutls28-dev",
    "libjson-c-dev",
    "libnl-3-dev",
    "libnl-route-3-dev",
    "libnuma-dev",
    "libparted-dev",
    "libpciaccess-dev",
    "libreadline-dev",
    "libsasl2-dev",
    "libtirpc-dev",
    "libudev-dev",
    "libxml2-dev",
    "libxml2-utils",
    "linux-headers-amd64",
    "lvm2",
    "make",
    "meson",
    "ninja-build",
    "pahole",
    "pkgconf",
    "polkitd",
    "python3",
    "python3-docutils",
    "sparse",
    "xsltproc",
    "xz-utils",
];

/// The Debian releases with other kernels that the module is for: the oldest and the newest.
pub const OLDEST: &str = "bookworm";
pub const NEWEST: &str = "sid";

/// What a host's kernel may be: Debian's, or a process of this machine.
pub const FAST: &str = "fast";
pub const KERNELS: [&str; 4] = [FAST, OLDEST, SUITE, NEWEST];

/// A kernel and what builds modules for it.
const KERNEL_PACKAGES: &[&str] = &[
    "ca-certificates",
    "gcc",
    "kmod",
    "linux-headers-amd64",
    "linux-image-amd64",
    "make",
    "sparse",
];

/// What builds the fast lab's kernel, beside its sources.
const SOURCE_PACKAGES: &[&str] =
    &["bc", "bison", "ca-certificates", "flex", "gcc", "kmod", "libc6-dev", "make", "xz-utils"];

/// The root directory of the hosts, before anything of ours is in it.
pub struct HostRoot {
    /// Its directory.
    pub tree: PathBuf,
    /// The release of its kernel.
    pub kernel: String,
}

/// A kernel that the module is built for.
pub struct Kernel {
    /// Its release.
    pub release: String,
    /// The root that has its headers and a compiler.
    pub build_root: PathBuf,
    /// The compiler there.
    pub compiler: &'static str,
}

/// The kernel of another Debian release, with its headers.
pub fn kernel(cache: &Cache, suite: &str) -> Result<Kernel> {
    let key = KeyBuilder::new(suite).text(&KERNEL_PACKAGES.join(" ")).finish();
    let place = cache.entry("kernel-root", &key, |dir| {
        let log = cache.log(&format!("kernel-root-{suite}"));
        ui::step(&format!("Fetching the kernel of Debian {suite}"), &log, || {
            bootstrap(suite, KERNEL_PACKAGES, &dir.join("tree"), &log)
        })
    })?;
    let build_root = place.join("tree");
    let release = only_entry(&build_root.join("boot"), "vmlinuz-")?;
    Ok(Kernel { release, build_root, compiler: "gcc" })
}

/// A root with a kernel's sources and what builds them.
pub fn kernel_sources(cache: &Cache, package: &str) -> Result<PathBuf> {
    let packages = [SOURCE_PACKAGES, &[package]].concat();
    let key = KeyBuilder::new(SUITE).text(&packages.join(" ")).finish();
    let place = cache.entry("source-root", &key, |dir| {
        let log = cache.log("source-root");
        ui::step("Fetching the sources of the kernels that are processes", &log, || {
            bootstrap(SUITE, &packages, &dir.join("tree"), &log)
        })
    })?;
    Ok(place.join("tree"))
}

/// Makes (or finds) the hosts' root with `extra` packages, and the kernel of another release.
pub fn variant(cache: &Cache, extra: &[String], kernel: Option<&Kernel>) -> Result<HostRoot> {
    let Some(kernel) = kernel else { return host(cache, extra) };
    let plain = host(cache, extra)?;
    let key = KeyBuilder::new(&kernel.release).text(&plain.tree.display().to_string()).finish();
    let place = cache.entry("host-root", &key, |dir| {
        let log = cache.log("host-root");
        let tree = dir.join("tree");
        ui::step(&format!("Giving the hosts Linux {}", kernel.release), &log, || {
            copy_tree(&plain.tree, &tree, &log)?;
            for part in ["usr/lib/modules", "boot"] {
                std::fs::remove_dir_all(tree.join(part))?;
                copy_tree(&kernel.build_root.join(part), &tree.join(part), &log)?;
            }
            Ok(())
        })
    })?;
    Ok(HostRoot { tree: place.join("tree"), kernel: kernel.release.clone() })
}

/// Makes (or finds) the hosts' root with `extra` packages.
pub fn host(cache: &Cache, extra: &[String]) -> Result<HostRoot> {
    let mut key = KeyBuilder::new(SUITE).text(&HOST_PACKAGES.join(" "));
    let mut extra = extra.to_vec();
    extra.sort();
    extra.dedup();
    for package in &extra {
        key = key.text(package);
    }
    let place = cache.entry("host-root", &key.finish(), |dir| {
        let log = cache.log("host-root");
        if extra.is_empty() {
            ui::step(&format!("Fetching Debian {SUITE} for the hosts"), &log, || {
                bootstrap(SUITE, HOST_PACKAGES, &dir.join("tree"), &log)
            })
        } else {
            extend(cache, &extra, &dir.join("tree"), &log)
        }
    })?;
    let tree = place.join("tree");
    let kernel = only_entry(&tree.join("boot"), "vmlinuz-")?;
    Ok(HostRoot { tree, kernel })
}

/// A copy of the plain root with more packages.
fn extend(cache: &Cache, extra: &[String], tree: &Path, log: &Path) -> Result<()> {
    let plain = host(cache, &[])?;
    ui::step(&format!("Adding {} to the hosts", extra.join(" ")), log, || {
        copy_tree(&plain.tree, tree, log)?;
        let script = format!(
            "apt-get update && apt-get -y --no-install-recommends install {} && apt-get clean",
            extra.join(" ")
        );
        proc::run_logged(in_root(tree, &[], &script), log)
    })
}

/// The hosts' plain root and the root that builds for them, made side by side.
pub fn both(cache: &Cache) -> Result<(HostRoot, PathBuf)> {
    let (hosts, build) = std::thread::scope(|scope| {
        let build = scope.spawn(|| build(cache));
        (host(cache, &[]), build.join())
    });
    let build = build.map_err(|_| anyhow!("the making of the build root panicked"))??;
    let hosts = hosts?;
    add_headers(cache, &build, &hosts.kernel)?;
    Ok((hosts, build))
}

fn build(cache: &Cache) -> Result<PathBuf> {
    let key = KeyBuilder::new(SUITE).text(&BUILD_PACKAGES.join(" ")).finish();
    let place = cache.entry("build-root", &key, |dir| {
        let log = cache.log("build-root");
        ui::step(&format!("Fetching Debian {SUITE} for building"), &log, || {
            bootstrap(SUITE, BUILD_PACKAGES, &dir.join("tree"), &log)
        })
    })?;
    Ok(place.join("tree"))
}

/// The two roots may have been made on different days, around a new kernel.
fn add_headers(cache: &Cache, build: &Path, kernel: &str) -> Result<()> {
    if build.join("usr/lib/modules").join(kernel).join("build").exists() {
        return Ok(());
    }
    let log = cache.log("headers");
    ui::step(&format!("Adding the headers of Linux {kernel}"), &log, || {
        let script = format!(
            "apt-get update && apt-get -y --no-install-recommends install linux-headers-{kernel}"
        );
        proc::run_logged(in_root(build, &[], &script), &log)
            .context("Debian has a newer kernel by now: remove host-root from the cache to get it")
    })
}

fn bootstrap(suite: &str, packages: &[&str], tree: &Path, log: &Path) -> Result<()> {
    let mut command = proc::command("mmdebstrap");
    command
        .args(["--variant=minbase", "--format=directory"])
        .arg(format!("--include={}", packages.join(",")))
        // An interrupted root is thrown away: its files need no syncing.
        .arg("--dpkgopt=force-unsafe-io")
        .arg("--aptopt=Acquire::Languages \"none\"")
        // Mirrors of the newest release are now and then some days behind.
        .arg(format!("--aptopt=Acquire::Check-Valid-Until \"{}\"", suite != NEWEST))
        .arg("--dpkgopt=path-exclude=/usr/share/doc/*")
        .arg("--dpkgopt=path-exclude=/usr/share/locale/*")
        .arg("--dpkgopt=path-exclude=/usr/share/man/*")
        .arg(suite)
        .arg(tree);
    proc::run_logged(command, log)
}

/// Copies a directory tree with everything that belongs to its files.
pub fn copy_tree(from: &Path, to: &Path, log: &Path) -> Result<()> {
    let mut command = proc::command("cp");
    command.args(["-a", "--reflink=auto", "-T"]).arg(from).arg(to);
    proc::run_logged(command, log)
}

/// Mounts what a root needs, and directories of ours, and runs a script in it.
const ENTER: &str = r#"
    mount --rbind /dev "$tree/dev"
    mount -t proc proc "$tree/proc"
    if [ -e /etc/resolv.conf ]; then cat /etc/resolv.conf > "$tree/etc/resolv.conf"; fi
    while [ $# -gt 0 ]; do
        mkdir -p "$tree$2"
        mount --bind "$1" "$tree$2"
        shift 2
    done
    exec chroot "$tree" /bin/sh -ec "$script"
"#;

/// A shell script to be run inside `tree`, with directories of ours bound to
/// places in it.
pub fn in_root(tree: &Path, binds: &[(&Path, &str)], script: &str) -> Command {
    entering("set -e; tree=$1 script=$2; shift 2", tree.as_os_str(), binds, script)
}

/// The same inside trees that lie over each other, the first on top. What is written there is
/// kept in memory and gone at the end.
pub fn in_layers(layers: &[&Path], binds: &[(&Path, &str)], script: &str) -> Command {
    const LAYERS: &str = r#"
        set -e
        layers=$1 script=$2
        shift 2
        mount -t tmpfs tmpfs /mnt
        mkdir /mnt/upper /mnt/work /mnt/tree
        mount -t overlay -o "lowerdir=$layers,upperdir=/mnt/upper,workdir=/mnt/work" overlay /mnt/tree
        tree=/mnt/tree
    "#;
    let layers: Vec<&OsStr> = layers.iter().map(|layer| layer.as_os_str()).collect();
    entering(LAYERS, &layers.join(OsStr::new(":")), binds, script)
}

fn entering(begin: &str, tree: &OsStr, binds: &[(&Path, &str)], script: &str) -> Command {
    let outer = format!("{begin}\n{ENTER}");
    let mut command = proc::command("unshare");
    command
        .args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", &outer, "sh"])
        .arg(tree)
        .arg(script)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .env("LC_ALL", "C.UTF-8")
        .env("DEBIAN_FRONTEND", "noninteractive");
    for (outside, inside) in binds {
        command.arg(outside).arg(inside);
    }
    command
}

/// What follows `prefix` in the name of the single entry of a directory that begins so.
fn only_entry(dir: &Path, prefix: &str) -> Result<String> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("{}", dir.display()))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut found = names.filter_map(|name| name.strip_prefix(prefix).map(str::to_owned));
    found.next().with_context(|| format!("{} has no {prefix}*", dir.display()))
}
