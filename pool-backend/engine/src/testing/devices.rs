// SPDX-License-Identifier: LGPL-2.1-or-later
//! Where the extents of an LVM in memory lie: on devices, of which one or the other may be closed, and
//! from one to another while `pvmove` moves them.

use std::collections::BTreeMap;

use virtnotify_model::Bytes;

use crate::lvm::{PvReport, PvSegment, VgReport};

/// How often LVM is asked before a move is done.
const LOOKS: u32 = 2;

#[derive(Debug, Clone)]
struct Device {
    extents: u64,
    open: bool,
}

/// A move that LVM knows.
#[derive(Debug, Clone)]
struct Move {
    lv: String,
    /// Which of its extents, and to which device each goes.
    extents: Vec<(usize, usize)>,
    /// Whether LVM watches it, which ends with a kill.
    watched: bool,
    left: u32,
}

/// The devices of a group.
#[derive(Debug, Clone, Default)]
pub(crate) struct Devices {
    extent: Bytes,
    devices: Vec<Device>,
    /// On which device each extent of a logical volume lies.
    places: BTreeMap<String, Vec<usize>>,
    moving: Option<Move>,
    /// Moves do not get on.
    stalled: bool,
}

/// Where names of devices are.
pub(super) const DIRECTORIES: [&str; 2] = ["/dev", "/dev/disk/by-id"];

fn name(number: usize) -> String {
    format!("/dev/pv{number}")
}

/// The number of a device, by its name or by another path to it.
fn number(name: &str) -> Option<usize> {
    name.strip_prefix("/dev/pv").or(name.strip_prefix("/dev/disk/by-id/pv"))?.parse().ok()
}

impl Devices {
    pub(super) fn new(sizes: &[Bytes], extent: Bytes) -> Self {
        let device = |size: &Bytes| Device { extents: size.0 / extent.0, open: true };
        let devices = sizes.iter().map(device).collect();
        Self { extent, devices, ..Self::default() }
    }

    /// Nobody watches moves any more.
    pub(super) fn after_power_cut(&self) -> Self {
        let unwatched = |moving: &Move| Move { watched: false, ..moving.clone() };
        Self { moving: self.moving.as_ref().map(unwatched), stalled: false, ..self.clone() }
    }

    pub(super) fn number(&self, name: &str) -> Option<(u32, u32)> {
        // One that is there, and in no group.
        let known = number(name).filter(|number| *number < self.devices.len() || *number == 9)?;
        Some((8, u32::try_from(known).unwrap()))
    }

    /// How many extents of a device are not free.
    fn taken(&self, device: usize) -> u64 {
        let going = self.moving.iter().flat_map(|moving| &moving.extents).map(|(_, to)| *to);
        let there = self.places.values().flatten().copied().chain(going);
        there.filter(|place| *place == device).count() as u64
    }

    /// How many are free, when so much is in the whole group: a test may have changed that.
    fn free(&self, device: usize, group: Bytes) -> u64 {
        let free = |n: usize| self.devices[n].extents - self.taken(n);
        let others: u64 = (1..self.devices.len()).map(free).sum();
        if device > 0 { free(device) } else { (group.0 / self.extent.0).saturating_sub(others) }
    }

    /// Takes this many extents, from devices that are open and not this one.
    fn take(&self, extents: u64, but: Option<usize>, group: Bytes) -> Result<Vec<usize>, String> {
        let mut taken = Vec::new();
        for (number, device) in self.devices.iter().enumerate() {
            let free =
                if device.open && but != Some(number) { self.free(number, group) } else { 0 };
            let missing = extents - taken.len() as u64;
            taken.extend((0..free.min(missing)).map(|_| number));
        }
        match taken.len() as u64 == extents {
            true => Ok(taken),
            false => Err("insufficient free space on devices that are open".into()),
        }
    }

    /// A logical volume has so many extents from now on.
    pub(super) fn resize(&mut self, lv: &str, extents: u64, free: Bytes) -> Result<(), String> {
        if self.moving.as_ref().is_some_and(|moving| moving.lv == lv) {
            return Err(format!("Can't resize locked logical volume {lv}."));
        }
        let had = self.places.get(lv).map_or(0, Vec::len);
        let more = self.take(extents.saturating_sub(had as u64), None, free)?;
        let places = self.places.entry(lv.into()).or_default();
        places.truncate(usize::try_from(extents).unwrap());
        places.extend(more);
        Ok(())
    }

    /// The group as LVM shows it.
    pub(super) fn shown(&self, report: &VgReport) -> VgReport {
        let mut shown = report.clone();
        let pv = |(number, device): (usize, &Device)| PvReport {
            name: name(number),
            free: Bytes(self.free(number, report.free) * self.extent.0),
            allocatable: device.open,
        };
        shown.pvs = self.devices.iter().enumerate().map(pv).collect();
        let closed = shown.pvs.iter().filter(|pv| !pv.allocatable).map(|pv| pv.free);
        shown.free = report.free.saturating_sub(closed.sum());
        for lv in &mut shown.lvs {
            lv.moving = self.moving.as_ref().is_some_and(|moving| moving.lv == lv.name);
        }
        shown
    }

    /// Time passes; says how much came free by the end of a move.
    pub(super) fn pass(&mut self) -> Bytes {
        let stalled = self.stalled;
        let Some(moving) = self.moving.as_mut().filter(|moving| moving.watched && !stalled) else {
            return Bytes::ZERO;
        };
        moving.left = moving.left.saturating_sub(1);
        if moving.left > 0 {
            return Bytes::ZERO;
        }
        let Some(moving) = self.moving.take() else { return Bytes::ZERO };
        let places = self.places.get_mut(&moving.lv).unwrap();
        for (extent, to) in &moving.extents {
            places[*extent] = *to;
        }
        Bytes(moving.extents.len() as u64 * self.extent.0)
    }

    pub(super) fn segments(&self) -> Vec<PvSegment> {
        let mut segments: Vec<PvSegment> = Vec::new();
        for (lv, places) in &self.places {
            for (at, device) in places.iter().enumerate() {
                let pv = name(*device);
                // An extent has the same number everywhere: that is enough to name it.
                match segments.last_mut() {
                    Some(last) if last.lv == *lv && last.pv == pv => last.extents += 1,
                    _ => {
                        let (start, lv) = (at as u64, lv.clone());
                        segments.push(PvSegment { pv, start, extents: 1, lv });
                    }
                }
            }
        }
        segments
    }

    pub(crate) fn open(&mut self, pv: &str, open: bool) -> Result<(), String> {
        let found = number(pv).and_then(|number| self.devices.get_mut(number));
        found.ok_or("no such device")?.open = open;
        Ok(())
    }

    /// Begins a move; says how much it takes until it is done.
    pub(super) fn begin_move(&mut self, part: &PvSegment, free: Bytes) -> Result<Bytes, String> {
        if self.moving.is_some() {
            return Err("Detected pvmove in progress".into());
        }
        let from = number(&part.pv).ok_or("no such device")?;
        let at = usize::try_from(part.start).unwrap();
        let extents: Vec<usize> = (at..at + usize::try_from(part.extents).unwrap()).collect();
        let places = self.places.get(&part.lv).ok_or("no such volume")?;
        if extents.iter().any(|extent| places.get(*extent) != Some(&from)) {
            return Err("No data to move".into());
        }
        let to = self.take(part.extents, Some(from), free)?;
        let extents = extents.into_iter().zip(to).collect();
        self.moving = Some(Move { lv: part.lv.clone(), extents, watched: true, left: LOOKS });
        Ok(Bytes(part.extents * self.extent.0))
    }

    pub(super) fn resume_move(&mut self) {
        if let Some(moving) = &mut self.moving {
            moving.watched = true;
        }
    }

    /// Has LVM forget to go on with a move, as when its program is killed.
    pub(crate) fn unwatch(&mut self) {
        *self = self.after_power_cut();
    }

    /// Has moves not get on, or get on again.
    pub(crate) fn stall(&mut self, stalled: bool) {
        self.stalled = stalled;
    }

    /// Whether a move is not at its end.
    pub(crate) fn is_moving(&self) -> bool {
        self.moving.is_some()
    }

    /// How many extents lie on a device.
    pub(crate) fn on_device(&self, device: usize) -> usize {
        self.places.values().flatten().filter(|place| **place == device).count()
    }

    /// How many extents of a logical volume lie on each device.
    pub(crate) fn of(&self, lv: &str) -> Vec<usize> {
        let count = |device| self.places[lv].iter().filter(|place| **place == device).count();
        (0..self.devices.len()).map(count).collect()
    }

    /// Whether a device may be used.
    pub(crate) fn is_open(&self, device: usize) -> bool {
        self.devices[device].open
    }

    /// A logical volume of others.
    pub(crate) fn add_other(&mut self, lv: &str, device: usize) {
        self.places.insert(lv.into(), vec![device]);
    }
}
