// SPDX-License-Identifier: LGPL-2.1-or-later
//! Devices of the device mapper, by name.

use std::path::PathBuf;

use devicemapper::{DM, DevId, DmError, DmFlags, DmName, DmOptions};
use nix::errno::Errno;

/// What the kernel answers: something, or why not.
pub type Answer<T> = Result<T, Errno>;

/// The kernel's device mapper.
pub struct Mapper(DM);

/// How a device is suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspend {
    /// All I/O ends first, what waits for a chunk too.
    Flush,
    /// What waits for a chunk goes back to the device mapper.
    NoFlush,
}

impl Mapper {
    /// Opens the control node.
    pub fn open() -> Answer<Self> {
        DM::new().map(Self).map_err(|error| errno(&error))
    }

    /// Makes a device without a table; returns its node.
    pub fn create(&self, name: &str) -> Answer<PathBuf> {
        let info = self.0.device_create(dm_name(name)?, None, DmOptions::default());
        let info = info.map_err(|error| errno(&error))?;
        Ok(PathBuf::from(format!("/dev/dm-{}", info.device().minor)))
    }

    /// Loads a table of one line.
    pub fn load(&self, name: &str, sectors: u64, target: &str, parameters: &str) -> Answer<()> {
        let line = (0, sectors, target.to_owned(), parameters.to_owned());
        let id = DevId::Name(dm_name(name)?);
        self.0
            .table_load(&id, &[line], DmOptions::default())
            .map(drop)
            .map_err(|error| errno(&error))
    }

    /// Stops a device's I/O.
    pub fn suspend(&self, name: &str, how: Suspend) -> Answer<()> {
        let flags = match how {
            Suspend::Flush => DmFlags::DM_SUSPEND,
            Suspend::NoFlush => DmFlags::DM_SUSPEND | DmFlags::DM_NOFLUSH,
        };
        self.switch(name, flags)
    }

    /// Swaps a loaded table in, and lets I/O go on.
    pub fn resume(&self, name: &str) -> Answer<()> {
        self.switch(name, DmFlags::empty())
    }

    /// The same, without a suspend before: the kernel suspends for the swap.
    pub fn swap(&self, name: &str) -> Answer<()> {
        self.switch(name, DmFlags::DM_NOFLUSH)
    }

    fn switch(&self, name: &str, flags: DmFlags) -> Answer<()> {
        let id = DevId::Name(dm_name(name)?);
        let options = DmOptions::default().set_flags(flags);
        self.0.device_suspend(&id, options).map(drop).map_err(|error| errno(&error))
    }

    /// Removes a device.
    pub fn remove(&self, name: &str) -> Answer<()> {
        let id = DevId::Name(dm_name(name)?);
        self.0.device_remove(&id, DmOptions::default()).map(drop).map_err(|error| errno(&error))
    }

    /// Sends a message; returns the reply.
    pub fn message(&self, name: &str, text: &str) -> Answer<String> {
        let id = DevId::Name(dm_name(name)?);
        let done = self.0.target_msg(&id, Some(0), text);
        done.map(|(_, reply)| reply.unwrap_or_default()).map_err(|error| errno(&error))
    }

    /// The fields of a device's status, without a flush before.
    pub fn status(&self, name: &str) -> Answer<Vec<String>> {
        let id = DevId::Name(dm_name(name)?);
        let options = DmOptions::default().set_flags(DmFlags::DM_NOFLUSH);
        let (_, lines) = self.0.table_status(&id, options).map_err(|error| errno(&error))?;
        let line = lines.first().ok_or(Errno::ENXIO)?;
        Ok(line.3.split_whitespace().map(str::to_owned).collect())
    }
}

fn dm_name(name: &str) -> Answer<&DmName> {
    DmName::new(name).map_err(|_| Errno::ENAMETOOLONG)
}

fn errno(error: &DmError) -> Errno {
    match error {
        DmError::Core(devicemapper::errors::Error::Ioctl(_, _, _, errno)) => **errno,
        _ => Errno::UnknownErrno,
    }
}
