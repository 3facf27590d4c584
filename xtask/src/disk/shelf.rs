// SPDX-License-Identifier: LGPL-2.1-or-later
//! Disks as the files of a small file system (FUSE), for a kernel that is an ordinary process: it
//! reads and writes a disk as a file, and its flush is an fsync.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, Session, WriteFlags,
};
use rustix::fs::FallocateFlags;

use super::{Cut, Disk};

/// Neither names nor sizes change.
const FOREVER: Duration = Duration::from_secs(1 << 30);
/// The first disk's inode; the file system's root has number 1.
const FIRST: u64 = 2;

/// A disk by its name; none once its power is off.
struct Slot {
    name: String,
    size: u64,
    disk: Mutex<Option<Disk>>,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<Disk>> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the disk, if it has power, and if that lies within it.
    fn with<T>(
        &self,
        offset: u64,
        length: u64,
        work: impl FnOnce(&mut Disk) -> std::io::Result<T>,
    ) -> Result<T, Errno> {
        if offset.checked_add(length).is_none_or(|end| end > self.size) {
            return Err(Errno::EINVAL);
        }
        match self.lock().as_mut() {
            Some(disk) => work(disk).map_err(|_| Errno::EIO),
            None => Err(Errno::EIO),
        }
    }
}

/// The disks of one host, mounted somewhere.
pub struct Shelf {
    slots: Arc<[Slot]>,
    session: BackgroundSession,
}

impl Shelf {
    /// Mounts files as disks under their names, seen in this thread's mount namespace.
    pub fn mount(at: &Path, disks: &[(String, PathBuf)]) -> Result<Self> {
        let slots = disks.iter().map(|(name, file)| {
            let disk = Disk::open(file)?;
            Ok(Slot { name: name.clone(), size: disk.size, disk: Mutex::new(Some(disk)) })
        });
        let slots: Arc<[Slot]> = slots.collect::<Result<Vec<_>>>()?.into();
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("disks".to_owned())];
        let session = Session::new(Files(slots.clone()), at, &config)
            .and_then(Session::spawn)
            .context("the hosts' disks cannot be mounted: this needs FUSE")?;
        Ok(Self { slots, session })
    }

    /// The host has ended, and its disks had time to write all that they had.
    pub fn power_off(self) -> Result<()> {
        for slot in &*self.slots {
            if let Some(mut disk) = slot.lock().take() {
                disk.flush()?;
            }
        }
        Ok(self.session.umount_and_join()?)
    }

    /// The disks lose their power at this moment; what is written from now on fails.
    pub fn cut_power(&self, random: &mut fastrand::Rng) -> Result<Cut> {
        let mut cut = Cut::default();
        // All of them first: what one of them still did would be a write after the cut.
        let disks: Vec<Disk> = {
            let mut locked: Vec<_> = self.slots.iter().map(Slot::lock).collect();
            locked.iter_mut().filter_map(|slot| slot.take()).collect()
        };
        for disk in disks {
            cut += disk.cut(random)?;
        }
        Ok(cut)
    }
}

/// What the kernel asks.
struct Files(Arc<[Slot]>);

impl Files {
    fn slot(&self, inode: INodeNo) -> Result<&Slot, Errno> {
        let number = inode.0.checked_sub(FIRST).and_then(|number| usize::try_from(number).ok());
        number.and_then(|number| self.0.get(number)).ok_or(Errno::ENOENT)
    }

    fn attributes(&self, inode: INodeNo) -> Result<FileAttr, Errno> {
        let is_root = inode == INodeNo::ROOT;
        let size = if is_root { 0 } else { self.slot(inode)?.size };
        Ok(FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_root { FileType::Directory } else { FileType::RegularFile },
            perm: if is_root { 0o700 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl Filesystem for Files {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let number = self.0.iter().position(|slot| name == slot.name.as_str());
        let attributes = number
            .ok_or(Errno::ENOENT)
            .and_then(|number| self.attributes(INodeNo(FIRST + number as u64)));
        match attributes {
            Ok(attributes) => reply.entry(&FOREVER, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Ok(attributes) => reply.attr(&FOREVER, &attributes),
            Err(error) => reply.error(error),
        }
    }

    /// Past this machine's page cache: the host has one of its own.
    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.slot(inode).and_then(|slot| {
            // At its end a file reads short.
            let length = u64::from(size).min(slot.size.saturating_sub(offset));
            let mut buffer = vec![0; usize::try_from(length).map_err(|_| Errno::EINVAL)?];
            slot.with(offset.min(slot.size), length, |disk| disk.read(offset, &mut buffer))?;
            Ok(buffer)
        });
        match read {
            Ok(buffer) => reply.data(&buffer),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let length = data.len() as u64;
        let written = self
            .slot(inode)
            .and_then(|slot| slot.with(offset, length, |disk| disk.write(offset, data.to_vec())));
        match (written, u32::try_from(length)) {
            (Ok(()), Ok(length)) => reply.written(length),
            (Ok(()), Err(_)) => reply.error(Errno::EINVAL),
            (Err(error), _) => reply.error(error),
        }
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(self.slot(inode).and_then(|slot| slot.with(0, 0, Disk::flush)), reply);
    }

    /// A discard, or zeroes: both leave a hole here.
    fn fallocate(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mode = FallocateFlags::from_bits_retain(u32::try_from(mode).unwrap_or_default());
        let zeroes = FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
        if !mode.contains(FallocateFlags::KEEP_SIZE) || !mode.intersects(zeroes) {
            reply.error(Errno::EOPNOTSUPP);
            return;
        }
        let zeroed = |slot: &Slot| slot.with(offset, length, |disk| disk.zero(offset, length));
        answer(self.slot(inode).and_then(zeroed), reply);
    }

    /// Closing a file flushes nothing.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}

fn answer(done: Result<(), Errno>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}
