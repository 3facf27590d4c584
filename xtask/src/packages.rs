// SPDX-License-Identifier: LGPL-2.1-or-later
//! The RPMs, and what they install; Debian's packages beside them.
//!
//! `packaging/rpm/build` and `debian/rules` make them from what is built already. The RPMs are installed into an empty directory, database and all, which is then laid over the hosts'
//! image: the hosts have what users get, and `rpm` there knows it. The packages' scripts do not run
//! on that way; tests have them run on a host (`tests/lab/packages.py`), with the packages in
//! /root/packages.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{Cache, KeyBuilder};
use crate::{proc, product, ui};

/// What of the checkout goes into packages, besides what is built from it.
const PARTS: &[&str] = &[
    "CHANGELOG.md",
    "LICENSES",
    "README.md",
    "debian",
    "docs",
    "hooks",
    "packaging",
    "xml-schemas",
];
const MORE_PARTS: &[&str] = &["kmod/dm-notify.rst", "kmod/examples"];
const CHANGELOG: &str = "debian/changelog";
const DATABASE: &str = "/var/lib/rpm";

/// Builds the packages, and a second set whose release is higher. In the directory that is
/// returned, `root` is what the first set installs, `files` has both sets for the hosts.
pub fn build(cache: &Cache, programs: &Path, module: &Path, kernel: &str) -> Result<PathBuf> {
    let mut key = KeyBuilder::new("packages 3").text(kernel).file("module", module)?;
    key = key.text(&programs.display().to_string());
    let top = crate::top()?;
    let mut files = Vec::new();
    for part in PARTS.iter().chain(MORE_PARTS) {
        collect(&top.join(part), &mut files)?;
    }
    files.extend(product::module_sources()?.into_iter().map(|(_, path)| path));
    files.sort();
    for file in &files {
        key = key.file(&file.strip_prefix(&top)?.display().to_string(), file)?;
    }
    cache.entry("packages", &key.finish(), |dir| {
        let log = cache.log("packages-rpm");
        let _ = std::fs::remove_file(&log);
        ui::step("Packaging", &log, || {
            let out = dir.join("files/root/packages");
            for number in ["1", "2"] {
                rpms(programs, module, kernel, number, &out.join(number), &log)?;
                debs(programs, number, &out.join(number), &log)?;
            }
            install(&out.join("1"), &dir.join("root"), &log)
        })
    })
}

fn collect(path: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        into.push(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path).with_context(|| format!("{}", path.display()))? {
        collect(&entry?.path(), into)?;
    }
    Ok(())
}

fn rpms(
    programs: &Path,
    module: &Path,
    kernel: &str,
    number: &str,
    out: &Path,
    log: &Path,
) -> Result<()> {
    let mut command = proc::command("sh");
    command.arg(crate::top()?.join("packaging/rpm/build"));
    command.arg("--binaries").arg(programs).arg("--module").arg(module).arg(kernel);
    command.args(["--number", number]).arg(out);
    proc::run_logged(command, log)
}

fn debs(programs: &Path, number: &str, out: &Path, log: &Path) -> Result<()> {
    let work = tempfile::tempdir()?;
    let tree = work.path().join("virtnotify");
    copy(&tree, number)?;
    let mut command = proc::command("dpkg-buildpackage");
    command.current_dir(&tree).args(["-us", "-uc", "-b", "-Ppkg.virtnotify.built"]);
    command.env("VIRTNOTIFY_PROGRAMS", programs);
    // These packages go no further than the lab: a tenth of the time, and some megabytes more.
    command.env("DPKG_DEB_COMPRESSOR_TYPE", "gzip").env("DPKG_DEB_COMPRESSOR_LEVEL", "1");
    proc::run_logged(command, log)?;
    std::fs::create_dir_all(out)?;
    for file in std::fs::read_dir(work.path())? {
        let file = file?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            std::fs::copy(&file, out.join(crate::file_name(&file)?))?;
        }
    }
    Ok(())
}

/// A copy of what packages are made of, whose Debian packages have that release: they are built in the
/// tree itself, and the checkout is not written into.
fn copy(tree: &Path, number: &str) -> Result<()> {
    std::fs::create_dir(tree)?;
    let mut command = proc::command("cp");
    command.current_dir(crate::top()?).arg("-R").args(PARTS).arg("kmod").arg(tree);
    proc::run(command)?;
    let changelog = tree.join(CHANGELOG);
    let text = std::fs::read_to_string(&changelog)?;
    let (version, rest) = text.split_once("-1) ").context("debian/changelog begins with no -1)")?;
    Ok(std::fs::write(&changelog, format!("{version}-{number}) {rest}"))?)
}

/// Installs all but the sources of the module, which would be built with a compiler that the
/// hosts do not have.
fn install(rpms: &Path, root: &Path, log: &Path) -> Result<()> {
    std::fs::create_dir(root)?;
    let mut command = proc::command("rpm");
    command.arg("--root").arg(root).args(["--dbpath", DATABASE]);
    command.args(["--install", "--nodeps", "--noscripts"]);
    for file in std::fs::read_dir(rpms)? {
        let file = file?.path();
        let name = crate::file_name(&file)?;
        if name.ends_with(".rpm") && !name.starts_with("virtnotify-dkms-") {
            command.arg(file);
        }
    }
    proc::run_logged(command, log)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What a package has: `MODE PATH`, without what is compressed or documentation.
    fn contents(rpms: &Path, name: &str) -> BTreeSet<String> {
        let pattern = format!("{}/{name}-0*.rpm", rpms.display());
        let query = "[%{FILEMODES:octal} %{FILENAMES}\n]";
        let script = format!("rpm --dbpath /nonexistent -qp --qf '{query}' {pattern}");
        let text = proc::capture("sh", &["-c", &script]).unwrap();
        let own = |path: &str| !path.contains("/share/doc/") && !path.contains("/share/licenses/");
        let lines = text.lines().map(|line| line.split_once(' ').unwrap());
        let lines = lines.filter(|(_, path)| own(path));
        let lines = lines.map(|(mode, path)| {
            format!("{} {}", &mode[mode.len() - 4..], path.trim_end_matches(".gz"))
        });
        lines.collect()
    }

    /// What a Debian package has, in the same form, without the folders that others have as well.
    fn debian_contents(debs: &Path, name: &str) -> BTreeSet<String> {
        let script = r#"
            dpkg-deb -x "$1"/$2_*.deb "$1/$2"
            cd "$1/$2"
            find . ! -type d -printf '%#m %P\n' -o -path './etc/virtnotify*' -printf '%#m %P\n'
        "#;
        let debs = debs.display().to_string();
        let text = proc::capture("sh", &["-ec", script, "sh", &debs, name]).unwrap();
        let lines = text.lines().map(|line| line.split_once(' ').unwrap());
        let lines = lines.filter(|(_, path)| {
            !path.starts_with("usr/share/doc/") && !path.starts_with("usr/share/lintian/")
        });
        lines.map(|(mode, path)| format!("{mode} /{}", path.trim_end_matches(".gz"))).collect()
    }

    #[test]
    fn debian_packages_have_what_the_list_says_and_nothing_else() {
        let entries = product::read_list(&crate::top().unwrap().join(product::LIST)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for entry in entries.iter().filter(|entry| entry.kind == "binary") {
            std::fs::copy("/bin/true", dir.path().join(&entry.source)).unwrap();
        }
        let out = dir.path().join("out");
        let log = dir.path().join("log");
        let built = debs(dir.path(), "7", &out, &log);
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        assert!(built.is_ok(), "{log}");

        let kinds = ["binary", "file", "directory", "apparmor"];
        let own = entries.iter().filter(|entry| kinds.contains(&entry.kind.as_str()));
        let mut own: BTreeSet<String> =
            own.map(|entry| format!("{:04o} {}", entry.mode, entry.to)).collect();
        own.insert("0755 /etc/virtnotify".into());
        assert_eq!(debian_contents(&out, "virtnotify"), own);
        let sources = format!("0644 /usr/src/virtnotify-{}-7/", env!("CARGO_PKG_VERSION"));
        let mut module: BTreeSet<String> = product::module_sources()
            .unwrap()
            .iter()
            .map(|(name, _)| format!("{sources}{name}"))
            .collect();
        module.insert(format!("{sources}dkms.conf"));
        assert_eq!(debian_contents(&out, "virtnotify-dkms"), module);
    }

    #[test]
    fn packages_have_the_version_of_the_crates() {
        let version = env!("CARGO_PKG_VERSION");
        let read = |path| std::fs::read_to_string(crate::top().unwrap().join(path)).unwrap();
        assert!(
            read("packaging/rpm/virtnotify.spec")
                .contains(&format!("\nVersion:        {version}\n"))
        );
        assert!(read(CHANGELOG).starts_with(&format!("virtnotify ({version}-1) ")));
    }

    #[test]
    fn the_packages_have_what_the_list_says_and_nothing_else() {
        const KERNEL: &str = "6.0.0-none";
        let entries = product::read_list(&crate::top().unwrap().join(product::LIST)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for entry in entries.iter().filter(|entry| entry.kind == "binary") {
            std::fs::copy("/bin/true", dir.path().join(&entry.source)).unwrap();
        }
        let out = dir.path().join("out");
        let log = dir.path().join("log");
        let module = Path::new("/bin/true");
        let built = rpms(dir.path(), module, KERNEL, "7", &out, &log);
        assert!(built.is_ok(), "{}", std::fs::read_to_string(&log).unwrap_or_default());

        let expected = |kinds: &[&str]| -> BTreeSet<String> {
            let entries = entries.iter().filter(|entry| kinds.contains(&entry.kind.as_str()));
            let lines = entries.map(|e| format!("{:04o} {}", e.mode, e.to));
            lines.map(|line| line.replace("KERNEL", KERNEL)).collect()
        };
        let mut own = expected(&["binary", "file", "directory"]);
        own.insert("0755 /etc/virtnotify".into());
        assert_eq!(contents(&out, "virtnotify"), own);
        let mut module = expected(&["module"]);
        module.insert(format!("0755 /usr/lib/modules/{KERNEL}/extra"));
        assert_eq!(contents(&out, "kmod-virtnotify"), module);
        let sources = product::module_sources().unwrap();
        let mut sources: BTreeSet<String> = sources
            .iter()
            .map(|(name, _)| format!("0644 /usr/src/virtnotify-0.1.0-7/{name}"))
            .collect();
        sources.insert("0644 /usr/src/virtnotify-0.1.0-7/dkms.conf".into());
        sources.insert("0755 /usr/src/virtnotify-0.1.0-7".into());
        assert_eq!(contents(&out, "virtnotify-dkms"), sources);
    }

    #[test]
    fn the_selinux_module_compiles() {
        let dir = tempfile::tempdir().unwrap();
        let policy = crate::top().unwrap().join("packaging/selinux");
        for file in std::fs::read_dir(policy).unwrap().flatten() {
            std::fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
        }
        let dir = dir.path().display().to_string();
        proc::capture("make", &["-s", "-C", &dir, "virtnotify.pp"]).unwrap();
    }
}
