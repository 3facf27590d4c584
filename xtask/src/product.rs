// SPDX-License-Identifier: LGPL-2.1-or-later
//! The product as it is installed on a host.

use anyhow::Result;

use crate::cache::Cache;
use crate::image::{self, HostImage, Overlay};
use crate::qemu::{self, Accel};
use crate::{libvirt, machine, roots};

/// The hosts' image with the product in it, and how to run it.
pub fn host_image(cache: &Cache, packages: &[String]) -> Result<(HostImage, Accel)> {
    let _lock = cache.lock_builds()?;
    machine::ensure_packages(cache)?;
    let plain = roots::host(cache, &[])?;
    let build_root = roots::build(cache, &plain.kernel)?;
    let libvirt = libvirt::overlay(cache, &build_root)?;
    let root = if packages.is_empty() { plain } else { roots::host(cache, packages)? };
    let mut overlay = Overlay::default();
    let lab = crate::top()?.join("tests/lab/host");
    overlay.add_tree(&lab)?;
    for unit in ["lab-setup.service", "lab-beacon.service"] {
        overlay.enable(unit, &lab.join("usr/lib/systemd/system").join(unit))?;
    }
    let image = image::host(cache, &root, &libvirt, &overlay)?;
    let accel = qemu::accel(cache, &image)?;
    Ok((image, accel))
}
