// SPDX-License-Identifier: LGPL-2.1-or-later
//! What fails: disks, LVM, calls of the device mapper before or after their effect, signals.

use std::time::Duration;

use nix::errno::Errno;

use super::world::World;
use crate::names::data_lv;
use crate::testing::{Devices, Failing};

/// Calls of the device mapper that fail.
const CALLS: [&str; 19] = [
    "inherit", "map", "remap", "leave", "forget", "protect", "watch", "drain", "snapshot", "mark",
    "freeze", "thaw", "notifier", "space", "create", "remove", "load", "suspend", "resume",
];
const COMMANDS: [&str; 7] =
    ["lvextend", "lvreduce", "vgs", "lvchange --refresh", "pvmove", "pvchange", "pvs"];

/// Lives until the host ends.
pub(super) fn live(world: &World) {
    loop {
        world.pause(Duration::from_secs(20));
        world.troubled.set(true);
        let (lvm, target) = (world.lvm(), world.target());
        let kind = world.below(9);
        tracing::info!(kind, "trouble");
        match kind {
            0 | 1 => world.metadata().fail_after(world.below(20)),
            2 => lvm.disk(&data_lv(0)).fail_after(world.below(20)),
            3 => {
                lvm.fail_after(Some(world.below(4)));
                lvm.devices(Devices::unwatch);
            }
            4 => {
                let command = COMMANDS[usize::try_from(world.below(7)).unwrap()];
                let done = world.chance(2) && !["vgs", "pvs"].contains(&command);
                lvm.hang(command, 1, done);
            }
            5 => target.lose_signals(true),
            6 => {
                lvm.begin_some_move();
                lvm.devices(|devices| devices.stall(true));
            }
            _ => {
                let step = CALLS[usize::try_from(world.below(19)).unwrap()];
                let errno = if world.chance(2) { Errno::EIO } else { Errno::ENOMEM };
                let times = 1 + u32::try_from(world.below(3)).unwrap();
                target.fail(step, Failing { errno, times, done: world.chance(2) });
            }
        }
        world.pause(Duration::from_secs(10));
        tracing::info!("healed");
        world.metadata().heal();
        lvm.disk(&data_lv(0)).heal();
        lvm.fail_after(None);
        lvm.devices(|devices| devices.stall(false));
        target.heal();
        // What it has left behind is mended within that.
        crate::runtime::simulated::sleep(Duration::from_secs(150));
        world.troubled.set(false);
    }
}
