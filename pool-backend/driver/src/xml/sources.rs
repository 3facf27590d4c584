// SPDX-License-Identifier: LGPL-2.1-or-later
//! `<sources>`: what pools could be made of (`virsh find-storage-pool-sources notify`).

use virtnotify_model::PoolSource;

use super::pool::print_source;
use super::print::Printer;

/// Prints volume groups and their devices.
#[must_use]
pub fn sources(groups: &[PoolSource]) -> String {
    let mut out = Printer::default();
    out.block("sources", |out| {
        for group in groups {
            print_source(out, &group.devices, group.vg.as_str());
        }
    });
    out.finish()
}
