// SPDX-License-Identifier: LGPL-2.1-or-later
//! libvirt's modular daemons, built from Debian's source package.
//!
//! Debian ships only the monolithic daemon. The upstream tarball alone is
//! used; it is laid over a root that has Debian's packages of the same version.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cache::{Cache, KeyBuilder};
use crate::roots::{SUITE, in_root};
use crate::{proc, ui};

const DISABLED_DRIVERS: &str = "lxc vbox vmware esx hyperv ch openvz bhyve vz test interface libxl";
const DISABLED_FEATURES: &str =
    "docs tests expensive_tests nls apparmor selinux fuse numad login_shell firewalld sanlock";

const SCRIPT: &str = r#"
. /etc/os-release
work=/work
cd $work
if [ ! -e "$work/source/meson.build" ]; then
    echo "deb-src $(sed -n 's/^deb \([^ ]*\) .*/\1/p' /etc/apt/sources.list | head -n 1) $VERSION_CODENAME main" \
        > /etc/apt/sources.list.d/source.list
    apt-get update
    # One of the package's small files may be out of reach; the tarball is enough.
    apt-get source --download-only libvirt || true
    mkdir source.new
    tar -xf libvirt_*.orig.tar.* --strip-components=1 -C source.new
    mv source.new source
fi
cd source
options=
for driver in $DRIVERS; do options="$options -Ddriver_$driver=disabled"; done
for feature in $FEATURES; do options="$options -D$feature=disabled"; done
meson setup build --prefix=/usr --libdir="lib/$(gcc -print-multiarch)" --sysconfdir=/etc \
    --localstatedir=/var -Drunstatedir=/run -Dinit_script=systemd -Dpolkit=enabled \
    -Dstorage_lvm=enabled -Dqemu_user=libvirt-qemu -Dqemu_group=libvirt-qemu -Dwerror=false \
    $options
ninja -C build
DESTDIR=/out ninja -C build install
"#;

/// The daemons as a tree to lay over a host's root.
pub fn overlay(cache: &Cache, build_root: &Path) -> Result<PathBuf> {
    let key =
        KeyBuilder::new(SUITE).text(SCRIPT).text(DISABLED_DRIVERS).text(DISABLED_FEATURES).finish();
    let place = cache.entry("libvirt", &key, |dir| {
        let log = cache.log("libvirt");
        let out = dir.join("out");
        let work = dir.join("work");
        std::fs::create_dir(&out)?;
        std::fs::create_dir(&work)?;
        ui::step("Building libvirt's modular daemons", &log, || {
            let mut command = in_root(build_root, &[(&work, "/work"), (&out, "/out")], SCRIPT);
            command.env("DRIVERS", DISABLED_DRIVERS).env("FEATURES", DISABLED_FEATURES);
            proc::run_logged(command, &log)?;
            std::fs::remove_dir_all(&work)?;
            Ok(())
        })
    })?;
    Ok(place.join("out"))
}
