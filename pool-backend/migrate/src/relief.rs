// SPDX-License-Identifier: LGPL-2.1-or-later
//! Which VM leaves a pool whose room is low, and whether it is time. Pure.

use std::cmp::Ordering;
use std::time::Duration;

use uuid::Uuid;
use virtnotify_model::Bytes;

use crate::forecast::{is_near, time_to_move};
use crate::wishes::Priority;

/// A VM that could leave.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Load {
    /// Which.
    pub uuid: Uuid,
    /// Its name: among equals the first goes, so that two looks choose the same.
    pub name: String,
    /// What the pool gets back.
    pub frees: Bytes,
    /// What has to be copied for that: all its disks that move, and its memory.
    pub copies: Bytes,
    /// How fast its disks grow, in bytes a second.
    pub rate: f64,
    /// How fast its guest writes to them, in bytes a second: what it overwrites counts as well.
    pub writes: f64,
    /// How often it could not be moved lately.
    pub failures: u32,
    /// How important it is.
    pub priority: Priority,
}

impl Load {
    /// How long its move will take.
    fn time(&self, bandwidth: Bytes) -> Duration {
        time_to_move(self.copies, bandwidth, self.writes.max(self.rate))
    }
}

/// A pool whose room may be low.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pressure {
    /// What is available, counting what leaves already.
    pub available: Bytes,
    /// Below this it is low.
    pub mark: Bytes,
    /// When it will be full if the VMs of this host go on as they do.
    pub to_full: Duration,
    /// What a move is expected to copy in a second.
    pub bandwidth: Bytes,
}

/// Why a move starts while the pool still has room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Less is left than the low mark.
    Low,
    /// It will be full soon: in this time.
    Soon(Duration),
}

/// The VMs in the order in which they should go: of those that failed least often the least important first, and of these
/// the one whose move frees most for each byte copied. Those that free nothing are left out.
pub(crate) fn order(mut loads: Vec<Load>) -> Vec<Load> {
    loads.retain(|load| load.frees > Bytes::ZERO);
    loads.sort_by(|a, b| {
        // a.frees/a.copies against b.frees/b.copies, without rounding.
        let product = |x: Bytes, y: Bytes| u128::from(x.0) * u128::from(y.0);
        let worth = product(b.frees, a.copies).cmp(&product(a.frees, b.copies));
        let larger = || b.frees.cmp(&a.frees);
        let failures = a.failures.cmp(&b.failures);
        failures
            .then(a.priority.cmp(&b.priority))
            .then(worth)
            .then_with(larger)
            .then_with(|| a.name.cmp(&b.name))
    });
    loads
}

/// Whether a move has to start now, when `first` is the VM that would go.
pub(crate) fn due(pressure: &Pressure, first: &Load) -> Option<Due> {
    if pressure.available.cmp(&pressure.mark) == Ordering::Less {
        return Some(Due::Low);
    }
    let to_move = first.time(pressure.bandwidth);
    is_near(pressure.to_full, to_move).then_some(Due::Soon(pressure.to_full))
}

/// The move of a VM that waits for space.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own {
    /// How long it takes.
    pub takes: Duration,
    /// How important the VM is.
    pub priority: Priority,
}

/// Selects the VMs that run, are no more important than the one that waits, and whose move would bring it its space at least
/// twice as soon as its own move. The soonest is first.
pub(crate) fn sooner(mut loads: Vec<Load>, own: Own, wanted: Bytes, bandwidth: Bytes) -> Vec<Load> {
    let time = |load: &Load| load.time(bandwidth);
    let does = |load: &Load| load.failures == 0 && load.frees >= wanted;
    loads.retain(|load| does(load) && load.priority <= own.priority && time(load) * 2 <= own.takes);
    loads.sort_by_key(|load| (time(load), load.name.clone()));
    loads
}

/// What the VM is going to grow by in the time that its next move would take: so much more must
/// be free at the next host, or it would have to go on from there at once.
pub(crate) fn growth_ahead(load: &Load, bandwidth: Bytes) -> Bytes {
    let time = load.time(bandwidth).as_secs_f64();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let growth = (time * load.rate) as u64;
    Bytes(growth)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forecast::as_f64;
    use proptest::prelude::*;

    fn load(name: &str, frees: u64, copies: u64) -> Load {
        let (frees, copies) = (Bytes::mib(frees), Bytes::mib(copies));
        let (rate, writes) = (0.0, 0.0);
        let (uuid, name, priority) = (Uuid::nil(), name.into(), Priority::default());
        Load { uuid, name, frees, copies, rate, writes, failures: 0, priority }
    }

    fn names(loads: Vec<Load>) -> Vec<String> {
        order(loads).into_iter().map(|load| load.name).collect()
    }

    #[test]
    fn most_freed_for_each_byte_copied_goes_first() {
        // Much memory for little disk; a disk in another pool as well; the best.
        let loads = vec![load("memory", 100, 1100), load("two", 500, 1000), load("best", 400, 500)];
        assert_eq!(names(loads), ["best", "two", "memory"]);
        assert_eq!(names(vec![load("b", 1, 2), load("a", 1, 2), load("c", 2, 4)]), ["c", "a", "b"]);
        assert_eq!(names(vec![load("none", 0, 2)]), Vec::<String>::new());
    }

    #[test]
    fn the_less_important_goes_first_unless_it_failed() {
        let of = |name: &str, priority: u8, failures| Load {
            priority: Priority::of(priority),
            failures,
            ..load(name, 400, 500)
        };
        let loads = vec![of("much", 80, 0), of("little", 20, 0), of("failed", 0, 1)];
        assert_eq!(names(loads), ["little", "much", "failed"]);
        let own = Own { takes: Duration::from_secs(3600), priority: Priority::of(50) };
        let loads = vec![of("much", 51, 0), of("same", 50, 0)];
        let sooner = sooner(loads, own, Bytes::mib(64), Bytes::mib(100));
        assert_eq!(sooner.iter().map(|load| load.name.as_str()).collect::<Vec<_>>(), ["same"]);
    }

    #[test]
    fn it_is_time_at_the_mark_and_before_the_end() {
        let mut pressure = Pressure {
            available: Bytes::mib(1000),
            mark: Bytes::mib(100),
            to_full: Duration::MAX,
            bandwidth: Bytes::mib(100),
        };
        let vm = load("vm", 1000, 1500);
        assert_eq!(due(&pressure, &vm), None);
        // 30 s to move, 45 s with safety.
        pressure.to_full = Duration::from_secs(46);
        assert_eq!(due(&pressure, &vm), None);
        pressure.to_full = Duration::from_secs(45);
        assert!(matches!(due(&pressure, &vm), Some(Due::Soon(_))));
        pressure.to_full = Duration::MAX;
        pressure.available = Bytes::mib(99);
        assert_eq!(due(&pressure, &vm), Some(Due::Low));
    }

    #[test]
    fn a_small_vm_goes_for_a_large_one_that_waits() {
        let loads = vec![load("small", 200, 500), load("smaller", 100, 400), load("tiny", 10, 100)];
        let sooner = |own, loads: &[Load]| {
            let own = Own { takes: Duration::from_secs(own), priority: Priority::default() };
            let sooner = sooner(loads.to_vec(), own, Bytes::mib(64), Bytes::mib(100));
            sooner.into_iter().map(|load| load.name).collect::<Vec<_>>()
        };
        // They take 20 and 19 s; what the last one frees is too little.
        assert_eq!(sooner(3600, &loads), ["smaller", "small"]);
        assert_eq!(sooner(38, &loads), ["smaller"]);
        assert_eq!(sooner(37, &loads), Vec::<String>::new());
        let failed = vec![Load { failures: 1, ..load("failed", 100, 400) }];
        assert_eq!(sooner(3600, &failed), Vec::<String>::new());
    }

    #[test]
    fn a_guest_that_overwrites_all_the_time_has_to_leave_sooner() {
        let quiet = load("vm", 1000, 1500);
        let busy = Load { writes: as_f64(Bytes::mib(50)), ..quiet.clone() };
        let pressure = |seconds| Pressure {
            available: Bytes::mib(1000),
            mark: Bytes::mib(100),
            to_full: Duration::from_secs(seconds),
            bandwidth: Bytes::mib(100),
        };
        // 30 s and 45 s to move, half as long again with safety.
        assert!(due(&pressure(60), &quiet).is_none());
        assert!(due(&pressure(60), &busy).is_some());
        assert!(due(&pressure(70), &busy).is_none());
    }

    #[test]
    fn a_fast_writer_needs_more_room_at_the_next_host() {
        let slow = load("vm", 1000, 1500);
        let fast = Load { rate: as_f64(Bytes::mib(10)), ..slow.clone() };
        let bandwidth = Bytes::mib(110);
        assert_eq!(growth_ahead(&slow, bandwidth), Bytes::ZERO);
        assert_eq!(growth_ahead(&fast, bandwidth), Bytes::mib(300));
    }

    proptest! {
        /// The order never puts a worse one first, whatever the numbers.
        #[test]
        fn the_first_is_the_best(all in proptest::collection::vec((0u64..1 << 50, 1u64..1 << 50), 0..8)) {
            let loads = all.iter().enumerate().map(|(n, &(frees, copies))| Load {
                uuid: Uuid::nil(), name: n.to_string(),
                frees: Bytes(frees), copies: Bytes(copies), rate: 0.0, writes: 0.0, failures: 0,
                priority: Priority::default(),
            });
            let ordered = order(loads.collect());
            for pair in ordered.windows(2) {
                let worth = |l: &Load, by: &Load| u128::from(l.frees.0) * u128::from(by.copies.0);
                prop_assert!(worth(&pair[0], &pair[1]) >= worth(&pair[1], &pair[0]));
            }
            prop_assert!(ordered.iter().all(|load| load.frees.0 > 0));
        }
    }
}
