// SPDX-License-Identifier: LGPL-2.1-or-later
//! Disk images and initramfs of the lab's hosts.
//!
//! Two layers, by how often they change. The base image is the hosts' root,
//! with libvirt's modular daemons or as Debian has it, made by `mke2fs -d`. The product and the
//! lab's own files are then written into a copy of it by `debugfs`: seconds,
//! and no mount is needed.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, KeyBuilder};
use crate::proc::ScratchDir;
use crate::roots::{self, HostRoot};
use crate::{proc, ui};

/// The size of the hosts' root file system; the image is sparse.
const ROOT_SIZE: &str = "8G";

/// Modules between the kernel and its root disk and network, in the order of
/// their loading.
const BOOT_MODULES: &[&str] = &[
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
    "drivers/block/virtio_blk",
    "crypto/crc32c_generic",
    "lib/crc16",
    "fs/mbcache",
    "fs/jbd2/jbd2",
    "fs/ext4/ext4",
];

/// Makes the union of Debian's libvirt packages and the modular daemons a host
/// of the latter: the modular sockets on, the monolithic daemon gone.
const MODULAR: &str = r#"
systemctl disable libvirtd.service libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket \
    libvirt-guests.service virtlogd.service
rm -f /usr/lib/systemd/system/libvirtd* /usr/sbin/libvirtd
for daemon in virtqemud virtstoraged virtnetworkd virtnodedevd virtsecretd virtnwfilterd virtproxyd; do
    systemctl enable $daemon.socket $daemon-ro.socket $daemon-admin.socket
done
systemctl enable virtlogd.socket virtlockd.socket
"#;

/// Takes away what a short-lived machine has no use for, and gives it keys.
const CONFIGURE: &str = r#"
systemctl disable apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer logrotate.timer getty@tty1.service lvm2-monitor.service || true
systemctl disable xfs_scrub_all.timer systemd-pstore.service || true
systemctl mask serial-getty@ttyS0.service getty-static.service systemd-random-seed.service \
    systemd-hwdb-update.service systemd-journal-catalog-update.service ldconfig.service \
    systemd-update-utmp.service systemd-firstboot.service systemd-timesyncd.service \
    sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount dev-mqueue.mount \
    tmp.mount modprobe@drm.service modprobe@fuse.service modprobe@configfs.service \
    modprobe@efi_pstore.service systemd-udev-settle.service systemd-binfmt.service \
    systemd-sysusers.service systemd-update-done.service systemd-udev-load-credentials.service \
    systemd-ask-password-wall.path systemd-ask-password-console.path
systemctl set-default multi-user.target
rm -f /etc/ssh/ssh_host_*
ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
mkdir -p -m 700 /root/.ssh
ssh-keygen -q -t ed25519 -N '' -C lab -f /root/.ssh/id_ed25519
cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys
printf 'host1,host2,lab %s\n' "$(cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub)" > /root/.ssh/known_hosts
systemd-machine-id-setup
rm -f /etc/fstab /initrd.img* /vmlinuz*
ldconfig
"#;

/// What booting a host takes.
#[derive(Clone)]
pub struct HostImage {
    /// The Debian tree that the root disk was made of.
    pub tree: PathBuf,
    /// The root disk; never written to, each run works on a copy.
    pub disk: PathBuf,
    /// The kernel.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
    /// The private key that opens root's account.
    pub ssh_key: PathBuf,
    /// The hosts' public keys, under the name `lab`.
    pub known_hosts: PathBuf,
}

/// One thing to be put into an image.
pub enum Item {
    /// A copy of a file with this mode.
    File {
        /// What is copied.
        from: PathBuf,
        /// Its permissions there.
        mode: u32,
    },
    /// A directory with this mode.
    Directory {
        /// Its permissions.
        mode: u32,
    },
    /// A symbolic link with this target.
    Link {
        /// What it points to.
        target: String,
    },
}

/// What is laid over the base image: absolute paths there, in order.
#[derive(Default)]
pub struct Overlay(pub Vec<(String, Item)>);

impl Overlay {
    /// Adds all files below `dir`, with their modes, at the root.
    pub fn add_tree(&mut self, dir: &Path) -> Result<()> {
        self.add_below(dir, "")
    }

    fn add_below(&mut self, dir: &Path, place: &str) -> Result<()> {
        let mut entries = std::fs::read_dir(dir)?.collect::<std::io::Result<Vec<_>>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        if entries.is_empty() {
            self.0.push((place.to_owned(), Item::Directory { mode: 0o755 }));
        }
        for entry in entries {
            let to = format!("{place}/{}", entry.file_name().to_string_lossy());
            let path = entry.path();
            if path.is_dir() {
                self.add_below(&path, &to)?;
                continue;
            }
            let mode = path.metadata()?.permissions().mode() & 0o7777;
            // The lab's files come from a checkout, which may have been made with any umask.
            let mode = if mode & 0o100 == 0 { 0o644 } else { 0o755 };
            self.0.push((to, Item::File { from: path, mode }));
        }
        Ok(())
    }

    /// Enables a unit of this overlay as its section `[Install]` asks.
    pub fn enable(&mut self, unit: &str, file: &Path) -> Result<()> {
        let text = std::fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
        for line in text.lines() {
            let (suffix, targets) = match line.split_once('=') {
                Some(("WantedBy", targets)) => ("wants", targets),
                Some(("RequiredBy", targets)) => ("requires", targets),
                _ => continue,
            };
            for target in targets.split_whitespace() {
                let link = format!("/etc/systemd/system/{target}.{suffix}/{unit}");
                let target = format!("/usr/lib/systemd/system/{unit}");
                self.0.push((link, Item::Link { target }));
            }
        }
        Ok(())
    }

    fn key(&self, mut key: KeyBuilder) -> Result<KeyBuilder> {
        for (to, item) in &self.0 {
            key = match item {
                Item::File { from, mode } => key.text(&format!("{mode:o}")).file(to, from)?,
                Item::Directory { mode } => key.text(&format!("{to} {mode:o}")),
                Item::Link { target } => key.text(&format!("{to} -> {target}")),
            };
        }
        Ok(key)
    }

    /// The whole overlay as commands for debugfs.
    fn debugfs_script(&self) -> String {
        let mut script = String::new();
        let mut made = std::collections::BTreeSet::new();
        for (to, item) in &self.0 {
            for parent in parents(to).into_iter().filter(|p| made.insert(*p)) {
                let _ = writeln!(script, "mkdir {parent}");
            }
            match item {
                Item::File { from, mode } => {
                    let _ = writeln!(script, "rm {to}");
                    let _ = writeln!(script, "write {} {to}", from.display());
                    let _ = writeln!(script, "sif {to} mode 010{mode:04o}");
                    let _ = writeln!(script, "sif {to} uid 0\nsif {to} gid 0");
                    // A packaged file's time is looked at by `rpm --verify`.
                    if let Ok(time) = from.metadata().and_then(|meta| meta.modified())
                        && let Ok(age) = time.duration_since(std::time::UNIX_EPOCH)
                    {
                        let _ = writeln!(script, "sif {to} mtime @{}", age.as_secs());
                    }
                }
                Item::Directory { mode } => {
                    let _ = writeln!(script, "mkdir {to}\nsif {to} mode 004{mode:04o}");
                }
                Item::Link { target } => {
                    let _ = writeln!(script, "rm {to}\nsymlink {to} {target}");
                }
            }
        }
        script
    }
}

fn parents(path: &str) -> Vec<&str> {
    path.match_indices('/').map(|(i, _)| &path[..i]).filter(|p| !p.is_empty()).collect()
}

/// The image with `overlay` in it. Without `libvirt` it has Debian's own.
pub fn host(
    cache: &Cache,
    root: &HostRoot,
    libvirt: Option<&Path>,
    overlay: &Overlay,
) -> Result<HostImage> {
    let initrd = initrd(cache, root)?;
    let base = base(cache, root, libvirt)?;
    let key = overlay.key(KeyBuilder::new("image").text(&base.display().to_string()))?.finish();
    let place = cache.entry("image", &key, |dir| {
        let log = cache.log("image");
        let disk = dir.join("root.img");
        ui::step("Installing into the hosts' image", &log, || {
            copy_sparse(&base.join("root.img"), &disk)?;
            write_overlay(&disk, overlay, dir, &log)
        })
    })?;
    Ok(HostImage {
        tree: root.tree.clone(),
        disk: place.join("root.img"),
        kernel: root.tree.join("boot").join(format!("vmlinuz-{}", root.kernel)),
        initrd,
        ssh_key: base.join("id_ed25519"),
        known_hosts: base.join("known_hosts"),
    })
}

fn base(cache: &Cache, root: &HostRoot, libvirt: Option<&Path>) -> Result<PathBuf> {
    let configure = [libvirt.map_or("", |_| MODULAR), CONFIGURE].concat();
    let mut key = KeyBuilder::new(&configure).text(ROOT_SIZE);
    key = key.text(&root.tree.display().to_string());
    if let Some(libvirt) = libvirt {
        key = key.text(&libvirt.display().to_string());
    }
    let what = if libvirt.is_some() { "base image" } else { "base image with Debian's libvirt" };
    cache.entry("base-image", &key.finish(), |dir| {
        let log = cache.log("base-image");
        ui::step(&format!("Making the hosts' {what}"), &log, || {
            let scratch = ScratchDir::new(dir, "tree-")?;
            let tree = scratch.path().join("root");
            roots::copy_tree(&root.tree, &tree, &log)?;
            if let Some(libvirt) = libvirt {
                roots::copy_tree(libvirt, &tree, &log)?;
            }
            proc::run_logged(roots::in_root(&tree, &[], &configure), &log)?;
            for (from, to) in
                [("root/.ssh/id_ed25519", "id_ed25519"), ("root/.ssh/known_hosts", "known_hosts")]
            {
                std::fs::copy(tree.join(from), dir.join(to))?;
            }
            make_filesystem(&tree, &dir.join("root.img"), &log)
        })
    })
}

/// The initramfs, which is the same for all images of a root.
fn initrd(cache: &Cache, root: &HostRoot) -> Result<PathBuf> {
    let init = crate::top()?.join("tests/lab/initramfs/init");
    let key = KeyBuilder::new(&BOOT_MODULES.join(" "))
        .text(&root.tree.display().to_string())
        .file("init", &init)?
        .finish();
    let place = cache.entry("initramfs", &key, |dir| {
        initramfs(root, &init, &dir.join("initrd.img"), &cache.log("initramfs"))
    })?;
    Ok(place.join("initrd.img"))
}

fn make_filesystem(tree: &Path, image: &Path, log: &Path) -> Result<()> {
    let mut command = proc::command("mke2fs");
    command
        .args(["-q", "-t", "ext4", "-F", "-E", "lazy_itable_init=1,nodiscard,root_owner=0:0"])
        .args(["-O", "^metadata_csum", "-d"])
        .arg(tree)
        .arg(image)
        .arg(ROOT_SIZE);
    proc::run_logged(command, log)
}

/// A minimal initramfs: busybox, the modules on the way to the root disk, and
/// a script. Debian's own takes a minute to unpack and search under emulation.
fn initramfs(root: &HostRoot, init: &Path, image: &Path, log: &Path) -> Result<()> {
    let parent = image.parent().context("the image has no directory")?;
    let scratch = ScratchDir::new(parent, "initramfs-")?;
    let dir = scratch.path();
    for sub in ["bin", "dev", "proc", "root", "mod"] {
        std::fs::create_dir(dir.join(sub))?;
    }
    std::fs::copy(root.tree.join("bin/busybox"), dir.join("bin/busybox"))?;
    std::fs::copy(init, dir.join("init"))?;
    std::fs::set_permissions(dir.join("init"), std::fs::Permissions::from_mode(0o755))?;
    let modules = root.tree.join("usr/lib/modules").join(&root.kernel);
    let builtin = std::fs::read_to_string(modules.join("modules.builtin"))?;
    let is_builtin = |name: &str| builtin.lines().any(|line| line == name);
    for (number, module) in BOOT_MODULES.iter().enumerate() {
        let name = format!("kernel/{module}.ko");
        if is_builtin(&name) {
            continue;
        }
        // Debian 12 has them as they are, later ones packed.
        let unpack = r#"if [ -e "$1.xz" ]; then xz -dc "$1.xz" > "$2"; else cp "$1" "$2"; fi"#;
        let mut command = proc::command("sh");
        command
            .args(["-ec", unpack, "sh"])
            .arg(modules.join(name))
            .arg(dir.join(format!("mod/{number:02}.ko")));
        proc::run_logged(command, log)?;
    }
    let pack = r#"cd "$1"; find . | cpio -o -H newc --quiet | zstd -q -3 > "$2""#;
    let mut command = proc::command("sh");
    command.args(["-ec", pack, "sh"]).arg(dir).arg(image);
    proc::run_logged(command, log)
}

/// Copies an image, keeping its holes.
pub fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    let mut command = proc::command("cp");
    command.args(["--sparse=always", "--reflink=auto"]).arg(from).arg(to);
    proc::run(command)
}

fn write_overlay(disk: &Path, overlay: &Overlay, dir: &Path, log: &Path) -> Result<()> {
    let commands = dir.join("commands");
    std::fs::write(&commands, overlay.debugfs_script())?;
    let output = Command::new("debugfs")
        .arg("-w")
        .arg("-f")
        .arg(&commands)
        .arg(disk)
        .output()
        .context("cannot start debugfs")?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    std::fs::write(log, complaints.as_bytes())?;
    // debugfs goes on after an error and exits with 0: what it says decides.
    // Making what is there and removing what is not is meant.
    let real: Vec<&str> = complaints
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("debugfs "))
        .filter(|line| !(line.contains("mkdir: ") && line.contains("already exists")))
        .filter(|line| !(line.starts_with("rm: ") && line.contains("not found")))
        .collect();
    if !output.status.success() || !real.is_empty() {
        bail!("debugfs could not write into the image: {}", real.join("; "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_before_what_is_in_them() {
        assert_eq!(parents("/usr/lib/x"), ["/usr", "/usr/lib"]);
        assert!(parents("/x").is_empty());
    }

    #[test]
    fn debugfs_makes_a_directory_once_and_replaces_files() {
        let file = |mode| Item::File { from: "/from".into(), mode };
        let overlay = Overlay(vec![
            ("/etc/a".into(), file(0o644)),
            ("/etc/b".into(), Item::Directory { mode: 0o700 }),
            ("/etc/c".into(), Item::Link { target: "a".into() }),
        ]);
        let script = overlay.debugfs_script();
        assert_eq!(script.matches("mkdir /etc\n").count(), 1);
        assert!(script.contains("rm /etc/a\nwrite /from /etc/a\nsif /etc/a mode 0100644\n"));
        assert!(script.contains("mkdir /etc/b\nsif /etc/b mode 0040700\n"));
        assert!(script.contains("rm /etc/c\nsymlink /etc/c a\n"));
    }
}
