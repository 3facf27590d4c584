// SPDX-License-Identifier: LGPL-2.1-or-later
//! How much memory a host has left.

use std::ffi::CStr;

use virt::connect::Connect;
use virt::sys;
use virtnotify_model::Bytes;

/// What its programs could get: what is free, and what caches hold; nothing where its libvirt does not say.
/// Linux counts shared memory among what caches hold, so it may be less, and is never more.
pub(super) fn left(connection: &Connect) -> Option<Bytes> {
    left_of(&stats(connection)?)
}

fn left_of(stats: &[sys::virNodeMemoryStats]) -> Option<Bytes> {
    let of = |name: &CStr| {
        let found = stats.iter().find(|stat| is_called(stat, name));
        found.map(|stat| stat.value)
    };
    let free = of(sys::VIR_NODE_MEMORY_STATS_FREE)?;
    let caches = [sys::VIR_NODE_MEMORY_STATS_BUFFERS, sys::VIR_NODE_MEMORY_STATS_CACHED];
    let sum = caches.into_iter().filter_map(of).fold(free, u64::saturating_add);
    // libvirt says all of it in KiB.
    Some(Bytes(sum.saturating_mul(1024)))
}

/// libvirt ends each name with a zero.
fn is_called(stat: &sys::virNodeMemoryStats, name: &CStr) -> bool {
    let field = stat.field.iter().flat_map(|c| c.to_ne_bytes());
    field.take_while(|byte| *byte != 0).eq(name.to_bytes().iter().copied())
}

fn stats(connection: &Connect) -> Option<Vec<sys::virNodeMemoryStats>> {
    let all = sys::VIR_NODE_MEMORY_STATS_ALL_CELLS;
    let mut count = 0;
    // SAFETY: the connection is alive; without a list libvirt only tells how many there are.
    let asked = unsafe {
        sys::virNodeGetMemoryStats(connection.as_ptr(), all, std::ptr::null_mut(), &mut count, 0)
    };
    let length = usize::try_from(count).ok().filter(|_| asked == 0)?;
    let mut stats = vec![sys::virNodeMemoryStats { field: [0; 80], value: 0 }; length];
    // SAFETY: the list has the length that is said, and libvirt says how much of it it has filled.
    let asked = unsafe {
        sys::virNodeGetMemoryStats(connection.as_ptr(), all, stats.as_mut_ptr(), &mut count, 0)
    };
    stats.truncate(usize::try_from(count).ok().filter(|_| asked == 0)?);
    Some(stats)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(name: &str, value: u64) -> sys::virNodeMemoryStats {
        let mut stat = sys::virNodeMemoryStats { field: [0; 80], value };
        for (to, from) in stat.field.iter_mut().zip(name.bytes()) {
            *to = std::ffi::c_char::from_ne_bytes([from]);
        }
        stat
    }

    #[test]
    fn what_is_free_and_what_caches_hold() {
        let total = stat("total", 4096);
        let all = [total, stat("free", 1024), stat("buffers", 512), stat("cached", 256)];
        assert_eq!(left_of(&all), Some(Bytes((1024 + 512 + 256) * 1024)));
        assert_eq!(left_of(&all[..2]), Some(Bytes::mib(1)));
        assert_eq!(left_of(&[total]), None);
    }
}
