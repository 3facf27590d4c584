// SPDX-License-Identifier: LGPL-2.1-or-later
//! `<sources>`: what pools could be made of (`virsh find-storage-pool-sources notify`).

use std::path::PathBuf;

use virtnotify_model::VgName;

use super::pool::print_source;
use super::print::Printer;

/// Prints volume groups and their devices.
#[must_use]
pub fn sources(groups: &[(VgName, Vec<PathBuf>)]) -> String {
    let mut out = Printer::default();
    out.block("sources", |out| {
        for (vg, devices) in groups {
            print_source(out, devices, vg.as_str());
        }
    });
    out.finish()
}
