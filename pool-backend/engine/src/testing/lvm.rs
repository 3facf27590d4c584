// SPDX-License-Identifier: LGPL-2.1-or-later
//! An LVM in memory. Where extents lie on its devices is in [`super::devices`].

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use virtnotify_model::{Bytes, VgName};

use super::devices::{DIRECTORIES, Devices};
use super::{FakeDisk, Power, number_of};
use crate::device::{BlockDevice, Disks};
use crate::lvm::{LvReport, Lvm, LvmError, PvSegment, VgReport};
use crate::names;
use crate::runtime::lock_plain as lock;
use crate::runtime::may_switch;

/// The name of the one group.
pub(crate) const GROUP: &str = "vg0";

#[derive(Debug, Default)]
struct Group {
    report: Option<VgReport>,
    devices: Devices,
    disks: BTreeMap<String, Arc<FakeDisk>>,
    power: Arc<Power>,
    made: u32,
    refuse: bool,
    /// Commands that still succeed, when limited.
    left: Option<u64>,
    /// A command that changes a size is killed before it tells the kernel.
    lag: bool,
    /// A command of this name is killed, so often; whether it has changed the group by then.
    hangs: Option<(&'static str, u32, bool)>,
    /// What was run.
    log: Vec<&'static str>,
}

impl Group {
    /// A command that is killed has done its work, of which the engine does not hear.
    fn killed(&self) -> Result<(), LvmError> {
        match self.lag {
            true => Err(LvmError::Timeout { command: "lvm".into(), seconds: 0 }),
            false => Ok(()),
        }
    }
}

/// A disk whose user may be interrupted before and after each call, in a simulation.
#[derive(Debug)]
struct Interrupted(Arc<FakeDisk>);

impl Interrupted {
    fn call<T>(&self, call: impl FnOnce(&FakeDisk) -> io::Result<T>) -> io::Result<T> {
        may_switch();
        let done = call(&self.0);
        may_switch();
        done
    }
}

impl BlockDevice for Interrupted {
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.call(|disk| disk.read_at(offset, out))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.call(|disk| disk.write_at(offset, data))
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        self.call(|disk| disk.zero(offset, length))
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.call(|disk| disk.discard(offset, length))
    }

    fn sync(&self) -> io::Result<()> {
        self.call(BlockDevice::sync)
    }
}

/// One volume group in memory.
#[derive(Debug, Default)]
pub(crate) struct FakeLvm(Mutex<Group>);

impl FakeLvm {
    fn of(group: Group) -> Self {
        Self(Mutex::new(group))
    }

    /// Every command after so many fails, as if the daemon were killed there.
    pub(crate) fn fail_after(&self, commands: Option<u64>) {
        lock(&self.0).left = commands;
    }

    /// What all of its disks live on.
    pub(crate) fn power(&self) -> Arc<Power> {
        lock(&self.0).power.clone()
    }

    /// Whether commands that change a size are killed half done from now on.
    pub(crate) fn lag(&self, lag: bool) {
        lock(&self.0).lag = lag;
    }

    /// Has a command of this name be killed, so often, before or after it has changed the group; the
    /// kernel does not hear of it.
    pub(crate) fn hang(&self, name: &'static str, times: u32, done: bool) {
        lock(&self.0).hangs = Some((name, times, done));
    }

    /// What was run since the last call.
    pub(crate) fn log(&self) -> Vec<&'static str> {
        std::mem::take(&mut lock(&self.0).log)
    }

    /// Holds LVM's lock: commands wait until the guard is gone.
    pub(crate) fn hold(&self) -> impl Drop + '_ {
        lock(&self.0)
    }

    /// What commands of others do to the group's devices.
    pub(crate) fn devices<T>(&self, change: impl FnOnce(&mut Devices) -> T) -> T {
        change(&mut lock(&self.0).devices)
    }

    /// A group on one device.
    pub(crate) fn new(size: Bytes, extent: Bytes) -> Arc<Self> {
        Self::on(&[size], extent)
    }

    /// A group on devices of these sizes: `/dev/pv0` and so on.
    pub(crate) fn on(sizes: &[Bytes], extent: Bytes) -> Arc<Self> {
        let size = sizes.iter().copied().sum();
        let report = VgReport {
            uuid: "group".into(),
            size,
            free: size,
            extent,
            tags: Vec::new(),
            exported: false,
            partial: false,
            shared: false,
            pvs: Vec::new(),
            lvs: Vec::new(),
        };
        let devices = Devices::new(sizes, extent);
        Arc::new(Self::of(Group { report: Some(report), devices, ..Group::default() }))
    }

    /// Changes the group without the engine's knowledge.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut VgReport) -> T) -> T {
        change(lock(&self.0).report.as_mut().unwrap())
    }

    /// Whether every command fails from now on.
    pub(crate) fn refuse(&self, refuse: bool) {
        lock(&self.0).refuse = refuse;
    }

    pub(crate) fn disk(&self, lv: &str) -> Arc<FakeDisk> {
        lock(&self.0).disks[lv].clone()
    }

    /// Begins a `pvmove`, as another program does, of the first data LV's beginning; says whether there is room.
    pub(crate) fn begin_some_move(&self) -> bool {
        let (vg, lv) = (GROUP.parse().unwrap(), names::data_lv(0));
        let parts = self.segments(&vg).unwrap_or_default();
        let first = parts.into_iter().find(|part| part.lv == lv);
        first.is_some_and(|part| self.begin_move(&PvSegment { extents: 1, ..part }).is_ok())
    }

    /// The group after a power cut, with what survived of its disks.
    pub(crate) fn after_power_cut(&self, mut choose: impl FnMut() -> bool) -> Arc<Self> {
        let (group, power) = (lock(&self.0), Arc::<Power>::default());
        let survived = |(name, disk): (&String, &Arc<FakeDisk>)| {
            (name.clone(), Arc::new(disk.survivor(power.clone(), &mut choose)))
        };
        let disks = group.disks.iter().map(survived).collect();
        let (report, made) = (group.report.clone(), group.made);
        let devices = group.devices.after_power_cut();
        Arc::new(Self::of(Group { report, devices, disks, made, power, ..Group::default() }))
    }

    fn failed(why: &str) -> LvmError {
        LvmError::Failed { command: "lvm".into(), status: "5".into(), stderr: why.into() }
    }

    fn run<T>(
        &self,
        name: &'static str,
        work: impl FnOnce(&mut Group) -> Result<T, LvmError>,
    ) -> Result<T, LvmError> {
        let mut group = lock(&self.0);
        group.log.push(name);
        let hanging = group.hangs.as_mut().filter(|(hangs, left, _)| *hangs == name && *left > 0);
        if let Some((_, left, done)) = hanging {
            *left -= 1;
            if *done {
                let lag = std::mem::replace(&mut group.lag, true);
                let killed = work(&mut group).err();
                group.lag = lag;
                return Err(killed.unwrap());
            }
            return Err(LvmError::Timeout { command: "lvm".into(), seconds: 0 });
        }
        let killed = match &mut group.left {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => group.refuse,
        };
        let dead = LvmError::Timeout { command: "lvm".into(), seconds: 0 };
        let power = group.power.clone();
        let changes = !["vgs", "pvs"].contains(&name);
        if killed || (changes && power.use_once().is_err()) {
            return Err(dead);
        }
        let done = work(&mut group)?;
        // Killed before it heard that this is done.
        if changes && power.use_once().is_err() { Err(dead) } else { Ok(done) }
    }

    fn resize(&self, lv: &str, to: Bytes, larger: bool) -> Result<(), LvmError> {
        self.run(if larger { "lvextend" } else { "lvreduce" }, |group| {
            let report = group.report.as_mut().unwrap();
            let to = to.round_up(report.extent).unwrap();
            let size = report.lv(lv).ok_or_else(|| Self::failed("not found"))?.size;
            if (to > size) != larger || to == size {
                return Err(Self::failed("nothing to change"));
            }
            let free = report.free.saturating_add(size);
            if to > free {
                return Err(Self::failed("insufficient free space"));
            }
            let extents = to.0 / report.extent.0;
            group.devices.resize(lv, extents, report.free).map_err(|why| Self::failed(&why))?;
            report.free = free.saturating_sub(to);
            report.lvs.iter_mut().find(|l| l.name == lv).unwrap().size = to;
            if group.lag {
                return Err(LvmError::Timeout { command: "lvm".into(), seconds: 0 });
            }
            group.disks[lv].resize(usize::try_from(to.0).unwrap());
            Ok(())
        })
    }
}

fn retag(tags: &mut Vec<String>, add: &[&str], del: &[&str]) {
    tags.retain(|tag| !del.contains(&tag.as_str()));
    tags.extend(add.iter().map(|&tag| tag.to_owned()));
}

impl Lvm for FakeLvm {
    fn report(&self, vg: &VgName) -> Result<VgReport, LvmError> {
        self.run("vgs", |group| {
            if vg.as_str() != GROUP {
                return Err(Self::failed(&format!("Volume group \"{vg}\" not found")));
            }
            let report = group.report.as_mut().unwrap();
            report.free = report.free.saturating_add(group.devices.pass());
            Ok(group.devices.shown(report))
        })
    }

    fn groups(&self) -> Result<Vec<virtnotify_model::PoolSource>, LvmError> {
        Ok(Vec::new())
    }

    fn create_lv(&self, _: &VgName, lv: &str, size: Bytes, tags: &[&str]) -> Result<(), LvmError> {
        self.run("lvcreate", |group| {
            group.made += 1;
            let uuid = format!("{:06}-0000-0000-0000-0000-0000-000000", group.made);
            let report = group.report.as_mut().unwrap();
            let size = size.round_up(report.extent).unwrap();
            if size > report.free || report.lv(lv).is_some() {
                return Err(Self::failed("no room, or there already"));
            }
            let extents = size.0 / report.extent.0;
            group.devices.resize(lv, extents, report.free).map_err(|why| Self::failed(&why))?;
            report.free = report.free.saturating_sub(size);
            let tags = tags.iter().map(|&tag| tag.to_owned()).collect();
            report.lvs.push(LvReport {
                name: lv.into(),
                uuid,
                size,
                tags,
                active: true,
                moving: false,
            });
            let size = usize::try_from(size.0).unwrap();
            let disk = FakeDisk::used_with(size, group.power.clone());
            group.disks.insert(lv.into(), Arc::new(disk));
            group.killed()
        })
    }

    fn extend_lv(&self, _: &VgName, lv: &str, to: Bytes) -> Result<(), LvmError> {
        self.resize(lv, to, true)
    }

    fn reduce_lv(&self, _: &VgName, lv: &str, to: Bytes) -> Result<(), LvmError> {
        self.resize(lv, to, false)
    }

    fn refresh_lv(&self, _: &VgName, lv: &str) -> Result<(), LvmError> {
        self.run("lvchange --refresh", |group| {
            let size = group.report.as_ref().unwrap().lv(lv).unwrap().size;
            if !group.lag {
                group.disks[lv].resize(usize::try_from(size.0).unwrap());
            }
            Ok(())
        })
    }

    fn remove_lv(&self, _: &VgName, lv: &str) -> Result<(), LvmError> {
        self.run("lvremove", |group| {
            let report = group.report.as_mut().unwrap();
            let size = report.lv(lv).ok_or_else(|| Self::failed("not found"))?.size;
            group.devices.resize(lv, 0, report.free).map_err(|why| Self::failed(&why))?;
            report.free = report.free.saturating_add(size);
            report.lvs.retain(|l| l.name != lv);
            group.disks.remove(lv);
            Ok(())
        })
    }

    fn activate_lv(&self, _: &VgName, lv: &str, active: bool) -> Result<(), LvmError> {
        self.run("lvchange", |group| {
            let report = group.report.as_mut().unwrap();
            let found = report.lvs.iter_mut().find(|l| l.name == lv);
            found.ok_or_else(|| Self::failed("not found"))?.active = active;
            Ok(())
        })
    }

    fn tag_lv(&self, _: &VgName, lv: &str, add: &[&str], del: &[&str]) -> Result<(), LvmError> {
        self.run("lvchange --addtag", |group| {
            let report = group.report.as_mut().unwrap();
            let found = report.lvs.iter_mut().find(|l| l.name == lv);
            retag(&mut found.ok_or_else(|| Self::failed("not found"))?.tags, add, del);
            Ok(())
        })
    }

    fn tag_vg(&self, _: &VgName, add: &[&str], del: &[&str]) -> Result<(), LvmError> {
        self.run("vgchange", |group| {
            retag(&mut group.report.as_mut().unwrap().tags, add, del);
            Ok(())
        })
    }

    fn create_vg(&self, _: &VgName, _: &[std::path::PathBuf], _: bool) -> Result<(), LvmError> {
        Err(Self::failed("there is one already"))
    }

    fn remove_vg(&self, _: &VgName) -> Result<(), LvmError> {
        self.run("vgremove", |group| {
            let empty = group.report.as_ref().unwrap().lvs.is_empty();
            if empty { Ok(()) } else { Err(Self::failed("not empty")) }
        })
    }

    fn segments(&self, _: &VgName) -> Result<Vec<PvSegment>, LvmError> {
        self.run("pvs", |group| Ok(group.devices.segments()))
    }

    fn open_pv(&self, pv: &str, open: bool) -> Result<(), LvmError> {
        self.run("pvchange", |group| {
            group.devices.open(pv, open).map_err(|why| Self::failed(&why))?;
            group.killed()
        })
    }

    fn begin_move(&self, part: &PvSegment) -> Result<(), LvmError> {
        self.run("pvmove", |group| {
            let report = group.report.as_mut().unwrap();
            let taken = group.devices.begin_move(part, report.free);
            let taken = taken.map_err(|why| Self::failed(&why))?;
            report.free = report.free.saturating_sub(taken);
            group.killed()
        })
    }

    fn resume_moves(&self, _: &VgName) -> Result<(), LvmError> {
        self.run("vgchange --poll", |group| {
            group.devices.resume_move();
            Ok(())
        })
    }

    fn remove_pv(&self, _: &Path) -> Result<(), LvmError> {
        self.run("pvremove", |_| Ok(()))
    }
}

impl Disks for FakeLvm {
    fn open(&self, path: &Path, _: bool) -> io::Result<Arc<dyn BlockDevice>> {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let group = lock(&self.0);
        let found = group
            .disks
            .get(&name)
            .filter(|_| group.report.as_ref().unwrap().lv(&name).is_some_and(|lv| lv.active));
        let opened = |disk: &Arc<FakeDisk>| -> Arc<dyn BlockDevice> {
            match names::data_lv_index(&name) {
                Some(_) => Arc::new(Interrupted(disk.clone())),
                // The database is in the middle of a call.
                None => disk.clone(),
            }
        };
        found.map(opened).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn number(&self, path: &Path) -> io::Result<(u32, u32)> {
        // Logical volumes lie in a directory of the test's, which may be one below /dev itself.
        if path.parent().is_none_or(|parent| !DIRECTORIES.map(Path::new).contains(&parent)) {
            return Ok(number_of(path));
        }
        let number = lock(&self.0).devices.number(&path.to_string_lossy());
        number.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
