// SPDX-License-Identifier: LGPL-2.1-or-later
//! The kernel's management console: a socket on which it takes commands even when nothing in it runs
//! any more (`arch/um/drivers/mconsole.h` in the kernel's sources).

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// What the kernel's directory is called.
pub const NAME: &str = "fast";

const MAGIC: u32 = 0xcafe_babe;
const VERSION: u32 = 2;
const DATA: usize = 512;
/// A reply's head: whether the request failed, whether more follows, the length of its text.
const HEAD: usize = 12;

/// Has the kernel write into its log which locks are held, and its first process where each task
/// is; then it ends.
pub fn ask_what_hangs(directory: &Path, deadline: Instant) -> Result<()> {
    // No path: the kernel's root is another than ours, and it replies to the name it is given.
    let own = SocketAddr::from_abstract_name(format!("{}/asking", directory.display()))?;
    let socket = UnixDatagram::bind_addr(&own)?;
    socket.connect(directory.join(NAME).join("mconsole")).context("it has no console")?;
    for command in ["sysrq d", "cad"] {
        socket.send(&request(command))?;
        await_reply(&socket, deadline)?;
    }
    Ok(())
}

/// Waits for the last part of the reply. Its text is in the log, too.
fn await_reply(socket: &UnixDatagram, deadline: Instant) -> Result<()> {
    let (mut reply, mut more) = ([0; HEAD + DATA], true);
    while more {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("it says no more");
        }
        socket.set_read_timeout(Some(left))?;
        let length = socket.recv(&mut reply).context("it does not answer")?;
        let word = |at: usize| reply[at..at + 4] != [0; 4];
        if word(0) {
            bail!("it refuses: {}", String::from_utf8_lossy(&reply[HEAD.min(length)..length]));
        }
        more = word(4);
    }
    Ok(())
}

fn request(command: &str) -> Vec<u8> {
    let length = u32::try_from(command.len()).unwrap_or_default();
    let head = [MAGIC, VERSION, length].map(u32::to_ne_bytes).concat();
    let mut message = [&head, command.as_bytes()].concat();
    message.resize(HEAD + DATA, 0);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_magic_version_length_and_text() {
        let message = request("sysrq t");
        assert_eq!(message.len(), 524);
        assert_eq!(message[..4], 0xcafe_babe_u32.to_ne_bytes());
        assert_eq!(message[8..12], 7_u32.to_ne_bytes());
        assert_eq!(&message[12..20], b"sysrq t\0");
    }
}
