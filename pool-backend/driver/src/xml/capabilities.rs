// SPDX-License-Identifier: LGPL-2.1-or-later
//! What `virsh pool-capabilities` shows of this pool type.

use super::print::Printer;

/// The `<pool>` element of this type.
#[must_use]
pub fn capabilities() -> String {
    let mut out = Printer::default();
    out.block("pool type='notify' supported='yes'", |out| {
        out.block("poolOptions", |out| {
            out.empty("defaultFormat", "type", "lvm2");
            out.block("enum name='sourceFormatType'", |out| {
                out.value("value", "unknown");
                out.value("value", "lvm2");
            });
        });
        out.block("volOptions", |out| {
            out.empty("defaultFormat", "type", "raw");
            out.block("enum name='targetFormatType'", |out| out.value("value", "raw"));
        });
    });
    out.finish()
}
