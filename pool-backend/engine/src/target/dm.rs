// SPDX-License-Identifier: LGPL-2.1-or-later
//! The device mapper through its control node: the only place that opens it.

use std::ops::Range;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use devicemapper::{
    DM, DevId, DeviceInfo, DmError, DmFlags, DmName, DmOptions, DmUdevFlags, DmUuid,
};
use nix::errno::Errno;

use virtnotify_model::{Sectors, VolumeStats};

use super::stats;
use super::text::{self, Dump, LiveTable, MappedRun, Pending, Status, Table};
use super::{Device, DeviceId, Target, TargetError};
use crate::names::{DM_NAME_PREFIX, DM_UUID_PREFIX};
use crate::pool::core::{Durable, Gap, Heritage};

/// The module that has the target.
const MODULE: &str = "dm-notify";
/// How often a message that a signal interrupted is sent again.
const RETRIES: u32 = 10;

/// The kernel's device mapper.
pub(crate) struct DeviceMapper {
    dm: DM,
    /// The minor version of the target, when it was last looked at.
    minor: AtomicU32,
}

impl DeviceMapper {
    /// Opens the control node.
    pub(crate) fn open() -> Result<Self, TargetError> {
        let dm = DM::new().map_err(|e| TargetError::Unreachable(e.to_string()))?;
        Ok(Self { dm, minor: AtomicU32::new(0) })
    }

    fn target_version(&self) -> Result<Option<(u32, u32, u32)>, TargetError> {
        let targets =
            self.dm.list_versions().map_err(|e| refused("list the targets of", MODULE, &e))?;
        let ours = targets.into_iter().find(|(name, ..)| name == text::NAME);
        Ok(ours.map(|(_, major, minor, patch)| (major, minor, patch)))
    }

    fn message(&self, id: &DeviceId, message: &str) -> Result<String, TargetError> {
        let step = step_of(message);
        let uuid = uuid(id)?;
        let mut left = RETRIES;
        loop {
            match self.dm.target_msg(&DevId::Uuid(uuid), Some(0), message) {
                Ok((_, answer)) => return Ok(answer.unwrap_or_default()),
                Err(e) if errno(&e) == Errno::EINTR && left > 0 => left -= 1,
                Err(e) => return Err(refused(step, &id.0, &e)),
            }
        }
    }

    /// Sends messages in turn, until one is refused.
    fn messages(&self, id: &DeviceId, messages: &[String]) -> Result<(), TargetError> {
        messages.iter().try_for_each(|message| self.message(id, message).map(drop))
    }

    fn set_suspended(
        &self,
        id: &DeviceId,
        step: &'static str,
        flags: DmFlags,
    ) -> Result<(), TargetError> {
        self.dm
            .device_suspend(&DevId::Uuid(uuid(id)?), quiet().set_flags(flags))
            .map(drop)
            .map_err(|e| refused(step, &id.0, &e))
    }
}

/// Options that keep udev's other rules away from a volume's device: no program scans what a guest
/// wrote. udev still makes the node and `/dev/mapper/NAME`.
fn quiet() -> DmOptions {
    DmOptions::default().set_udev_flags(
        DmUdevFlags::DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG
            | DmUdevFlags::DM_UDEV_DISABLE_DISK_RULES_FLAG
            | DmUdevFlags::DM_UDEV_DISABLE_OTHER_RULES_FLAG,
    )
}

/// Nothing is flushed: a flush would wait for writes that wait for us.
fn without_flush() -> DmFlags {
    DmFlags::DM_NOFLUSH | DmFlags::DM_SKIP_LOCKFS
}

/// The first word of a message, for sentences.
fn step_of(message: &str) -> &'static str {
    const WORDS: [&str; 17] = [
        "map",
        "inherit",
        "remap",
        "snapshot",
        "mark",
        "freeze",
        "thaw",
        "leave",
        "forget",
        "protect",
        "unprotect",
        "pending",
        "dump",
        "stats",
        "notifier",
        "space",
        "nospace",
    ];
    let word = message.split(' ').next().unwrap_or_default();
    WORDS.into_iter().find(|w| *w == word).unwrap_or("send a message to")
}

fn errno(error: &DmError) -> Errno {
    match error {
        DmError::Core(devicemapper::errors::Error::Ioctl(_, _, _, errno)) => **errno,
        _ => Errno::UnknownErrno,
    }
}

fn refused(step: &'static str, device: &str, error: &DmError) -> TargetError {
    TargetError::Refused { step, device: device.to_owned(), errno: errno(error) }
}

fn bad_name(device: &str) -> TargetError {
    TargetError::Refused { step: "name", device: device.to_owned(), errno: Errno::ENAMETOOLONG }
}

fn uuid(id: &DeviceId) -> Result<&DmUuid, TargetError> {
    DmUuid::new(&id.0).map_err(|_| bad_name(&id.0))
}

/// The length of a block device, as sysfs has it.
fn length(major: u32, minor: u32) -> Sectors {
    let text = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/size"));
    Sectors(text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0))
}

fn device(info: &DeviceInfo) -> Option<Device> {
    let number = info.device();
    Some(Device {
        id: DeviceId(info.uuid()?.to_string()),
        name: info.name()?.to_string(),
        minor: number.minor,
        openers: u32::try_from(info.open_count()).unwrap_or(0),
        length: length(number.major, number.minor),
        live: info.flags().contains(DmFlags::DM_ACTIVE_PRESENT),
        suspended: info.flags().contains(DmFlags::DM_SUSPEND),
    })
}

fn odd(step: &'static str, id: &DeviceId, text: &str) -> TargetError {
    let text = text.chars().take(200).collect();
    TargetError::Answer { step, device: id.0.clone(), text }
}

impl Target for DeviceMapper {
    fn check(&self) -> Result<(), TargetError> {
        let mut version = self.target_version()?;
        if version.is_none() {
            // A device's first table would load the module as well, but much later.
            let _ = Command::new("/sbin/modprobe").args(["-q", MODULE]).env_clear().status();
            version = self.target_version()?;
        }
        let Some((major, minor, patch)) = version else {
            return Err(TargetError::Version(format!(
                "the kernel has no device-mapper target '{}': its module {MODULE} is not loaded",
                text::NAME
            )));
        };
        if major != text::VERSION.0 || minor < text::VERSION.1 {
            return Err(TargetError::Version(format!(
                "the kernel's target '{}' is {major}.{minor}.{patch}, and {}.{} is needed: \
                 module and daemon have to be updated together",
                text::NAME,
                text::VERSION.0,
                text::VERSION.1
            )));
        }
        self.minor.store(minor, Ordering::Relaxed);
        Ok(())
    }

    fn devices(&self) -> Result<Vec<Device>, TargetError> {
        let all = self.dm.list_devices().map_err(|e| refused("list", "devices", &e))?;
        let mut ours = Vec::new();
        for (name, ..) in all {
            let text = name.to_string();
            if !text.starts_with(DM_NAME_PREFIX) {
                continue;
            }
            match self.dm.device_info(&DevId::Name(&name)) {
                Ok(info) => ours.extend(device(&info)),
                Err(e) if errno(&e) == Errno::ENXIO => {}
                Err(e) => return Err(refused("look at", &text, &e)),
            }
        }
        ours.retain(|device| device.id.0.starts_with(DM_UUID_PREFIX));
        Ok(ours)
    }

    fn create(&self, name: &str, id: &DeviceId, table: &Table) -> Result<Device, TargetError> {
        let dm_name = DmName::new(name).map_err(|_| bad_name(name))?;
        self.dm
            .device_create(dm_name, Some(uuid(id)?), DmOptions::default())
            .map_err(|e| refused("make", name, &e))?;
        let live = self.load(id, table).and_then(|()| self.resume(id));
        match live {
            Ok(()) => self.device(id),
            Err(error) => {
                let _ = self.remove(id);
                Err(error)
            }
        }
    }

    fn load(&self, id: &DeviceId, table: &Table) -> Result<(), TargetError> {
        let line = (0, table.length.0, text::NAME.to_owned(), table.parameters());
        let mut options = DmOptions::default();
        if table.read_only {
            options = options.set_flags(DmFlags::DM_READONLY);
        }
        self.dm
            .table_load(&DevId::Uuid(uuid(id)?), &[line], options)
            .map(drop)
            .map_err(|e| refused("load a table for", &id.0, &e))
    }

    fn suspend(&self, id: &DeviceId) -> Result<(), TargetError> {
        self.set_suspended(id, "suspend", DmFlags::DM_SUSPEND | without_flush())
    }

    fn resume(&self, id: &DeviceId) -> Result<(), TargetError> {
        self.set_suspended(id, "resume", without_flush())
    }

    fn remove(&self, id: &DeviceId) -> Result<(), TargetError> {
        match self.dm.device_remove(&DevId::Uuid(uuid(id)?), quiet()) {
            Ok(_) => Ok(()),
            Err(e) if errno(&e) == Errno::ENXIO => Ok(()),
            Err(e) => Err(refused("remove", &id.0, &e)),
        }
    }

    fn device(&self, id: &DeviceId) -> Result<Device, TargetError> {
        let info = self.dm.device_info(&DevId::Uuid(uuid(id)?));
        let info = info.map_err(|e| refused("look at", &id.0, &e))?;
        device(&info).ok_or_else(|| odd("look at", id, "a device without name or uuid"))
    }

    fn status(&self, id: &DeviceId) -> Result<Status, TargetError> {
        let options = DmOptions::default().set_flags(DmFlags::DM_NOFLUSH);
        let answer = self.dm.table_status(&DevId::Uuid(uuid(id)?), options);
        let (_, lines) = answer.map_err(|e| refused("ask the status of", &id.0, &e))?;
        match &lines[..] {
            [(0, _, name, line)] if name == text::NAME => {
                Status::parse(line).ok_or_else(|| odd("status", id, line))
            }
            other => Err(odd("status", id, &format!("{other:?}"))),
        }
    }

    fn live_table(&self, id: &DeviceId) -> Result<LiveTable, TargetError> {
        let options =
            DmOptions::default().set_flags(DmFlags::DM_STATUS_TABLE | DmFlags::DM_NOFLUSH);
        let answer = self.dm.table_status(&DevId::Uuid(uuid(id)?), options);
        let (_, lines) = answer.map_err(|e| refused("ask the table of", &id.0, &e))?;
        match &lines[..] {
            [(0, length, name, line)] if name == text::NAME => {
                let table = LiveTable::parse(Sectors(*length), line);
                table.ok_or_else(|| odd("table", id, line))
            }
            other => Err(odd("table", id, &format!("{other:?}"))),
        }
    }

    fn map(&self, id: &DeviceId, runs: Durable<&[MappedRun]>) -> Result<(), TargetError> {
        self.messages(id, &text::map_messages("map", &runs))
    }

    fn inherit(&self, id: &DeviceId, from: Durable<Heritage>) -> Result<(), TargetError> {
        // A module in use stays until the host starts anew, and would tell the kernel log of each refusal.
        if self.minor.load(Ordering::Relaxed) < text::INHERITS {
            let (step, errno) = ("inherit", Errno::EOPNOTSUPP);
            return Err(TargetError::Refused { step, device: id.0.clone(), errno });
        }
        let Heritage { minor, generation } = *from;
        self.message(id, &format!("inherit {minor} {generation}")).map(drop)
    }

    fn leave(&self, id: &DeviceId, from: u64, chunks: u64, force: bool) -> Result<(), TargetError> {
        let force = if force { " force" } else { "" };
        self.message(id, &format!("leave {from}:{chunks}{force}")).map(drop)
    }

    fn forget(&self, id: &DeviceId, gap: Durable<Gap>) -> Result<(), TargetError> {
        let (from, chunks) = *gap;
        self.message(id, &format!("forget {from}:{chunks}")).map(drop)
    }

    fn protect(&self, id: &DeviceId, ranges: &[Gap], on: bool) -> Result<(), TargetError> {
        let word = if on { "protect" } else { "unprotect" };
        self.messages(id, &text::range_messages(word, ranges))
    }

    fn remap(&self, id: &DeviceId, runs: Durable<&[MappedRun]>) -> Result<(), TargetError> {
        self.messages(id, &text::map_messages("remap", &runs))
    }

    fn watch(&self, id: &DeviceId, ranges: &[Gap]) -> Result<(), TargetError> {
        self.messages(id, &text::range_messages("watch", ranges))
    }

    fn drain(&self, id: &DeviceId) -> Result<(), TargetError> {
        self.message(id, "drain").map(drop)
    }

    fn snapshot(&self, id: &DeviceId, generation: u16) -> Result<(), TargetError> {
        self.message(id, &format!("snapshot {generation}")).map(drop)
    }

    fn mark(&self, id: &DeviceId, generation: u16) -> Result<(), TargetError> {
        self.message(id, &format!("mark {generation}")).map(drop)
    }

    fn freeze(&self, id: &DeviceId, limit: Duration) -> Result<(), TargetError> {
        self.message(id, &format!("freeze {}", limit.as_millis())).map(drop)
    }

    fn thaw(&self, id: &DeviceId) -> Result<(), TargetError> {
        self.message(id, "thaw").map(drop)
    }

    fn is_leaving(&self, id: &DeviceId, chunk: u64) -> Result<bool, TargetError> {
        let answer = self.message(id, &format!("dump {chunk}"))?;
        let mut part = Dump::default();
        part.add(&answer).ok_or_else(|| odd("dump", id, &answer))?;
        let covers = |&(from, length): &(u64, u64)| (from..from + length).contains(&chunk);
        Ok(part.leaving.iter().any(covers))
    }

    fn pending(&self, id: &DeviceId) -> Result<Pending, TargetError> {
        let answer = self.message(id, "pending")?;
        Pending::parse(&answer).ok_or_else(|| odd("pending", id, &answer))
    }

    fn dump_part(&self, id: &DeviceId, part: Range<u64>) -> Result<Dump, TargetError> {
        let mut all = Dump::default();
        let mut from = part.start;
        loop {
            let answer = self.message(id, &format!("dump {from}"))?;
            match all.add(&answer).ok_or_else(|| odd("dump", id, &answer))? {
                Some(next) if next >= part.end => return Ok(all),
                Some(next) if next > from => from = next,
                Some(_) => return Err(odd("dump", id, &answer)),
                None => return Ok(all),
            }
        }
    }

    fn stats(&self, id: &DeviceId) -> Result<VolumeStats, TargetError> {
        let answer = self.message(id, "stats")?;
        let stats = stats::parse(&answer).ok_or_else(|| odd("stats", id, &answer))?;
        let minor = self.device(id)?.minor;
        let counted = std::fs::read_to_string(format!("/sys/block/dm-{minor}/stat"));
        let written = counted.ok().and_then(|counted| stats::written(&counted));
        Ok(VolumeStats { written: written.map(Sectors::bytes), ..stats })
    }

    fn notifier(&self, id: &DeviceId, thread: i32, signal: i32) -> Result<(), TargetError> {
        self.message(id, &format!("notifier {thread} {signal}")).map(drop)
    }

    fn space(&self, id: &DeviceId, there_is: bool) -> Result<(), TargetError> {
        self.message(id, if there_is { "space" } else { "nospace" }).map(drop)
    }
}
