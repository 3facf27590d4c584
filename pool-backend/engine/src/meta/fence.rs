// SPDX-License-Identifier: LGPL-2.1-or-later
//! A metadata device that takes nothing more once a write to it has failed.
//!
//! The journal and the database are on one device, and what each of them may write next rests on
//! what the other has written. So a failure of one ends both; the device is opened anew after it.

use std::io;
use std::sync::{Arc, OnceLock};

use crate::device::BlockDevice;

#[derive(Debug)]
pub(super) struct Fence {
    device: Arc<dyn BlockDevice>,
    /// Why nothing is let through any more.
    closed: OnceLock<String>,
}

impl Fence {
    pub(super) fn new(device: Arc<dyn BlockDevice>) -> Self {
        Self { device, closed: OnceLock::new() }
    }

    /// Lets no later write through, and says why from then on.
    pub(super) fn close(&self, why: &dyn std::fmt::Display) {
        self.closed.get_or_init(|| why.to_string());
    }

    /// Does what changes the device, unless something before it has failed.
    fn pass(&self, work: impl FnOnce(&dyn BlockDevice) -> io::Result<()>) -> io::Result<()> {
        if let Some(why) = self.closed.get() {
            return Err(io::Error::other(format!("nothing is written any more: {why}")));
        }
        work(self.device.as_ref()).inspect_err(|error| self.close(error))
    }
}

impl BlockDevice for Fence {
    fn size(&self) -> io::Result<u64> {
        self.device.size()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.device.read_at(offset, out)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.pass(|device| device.write_at(offset, data))
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        self.pass(|device| device.zero(offset, length))
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.pass(|device| device.discard(offset, length))
    }

    fn sync(&self) -> io::Result<()> {
        self.pass(BlockDevice::sync)
    }
}
