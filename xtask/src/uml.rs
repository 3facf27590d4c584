// SPDX-License-Identifier: LGPL-2.1-or-later
//! A Linux that is an ordinary process (User Mode Linux), and the management console on which it takes
//! commands even when nothing in it runs any more (`arch/um/drivers/mconsole.h` in its sources).
//!
//! It runs in namespaces of its own for mounts and processes: whatever of it is left goes with the
//! first one of them. What it sees of this machine is a Debian tree, bound so that nothing can be
//! written to it, and in /mnt there the run's own directory.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::proc;

/// Prepares the file systems as the kernel will see them, and becomes it. It is started under a name
/// that no program has: a reboot, for which it would start itself again, ends it.
const START: &str = r#"
    set -e
    tree=$1 run=$2 kernel=$3 libvirt=$4 memory=$5
    shift 5
    mount --bind "$tree" "$tree"
    mount -o remount,bind,ro "$tree"
    mount -t proc proc "$tree/proc"
    mount --rbind /dev "$tree/dev"
    mount -t tmpfs -o size="$memory" tmpfs "$tree/dev/shm"
    mount --rbind "$run" "$tree/mnt"
    mount --bind "$kernel" "$tree/mnt/kernel"
    if [ -n "$libvirt" ]; then mount --bind "$libvirt" "$tree/mnt/libvirt"; fi
    chroot "$tree" /bin/bash -c 'exec -a linux-that-ends /mnt/kernel/linux "$@"' bash "$@"
"#;

/// What the kernel's directory is called, below `uml` in the run's own.
const NAME: &str = "linux";

const MAGIC: u32 = 0xcafe_babe;
const VERSION: u32 = 2;
const DATA: usize = 512;
/// A reply's head: whether the request failed, whether more follows, the length of its text.
const HEAD: usize = 12;

/// Makes in a run's directory what is mounted over there.
pub fn lay_out(run: &Path) -> Result<()> {
    for dir in ["kernel", "libvirt", "uml"] {
        std::fs::create_dir_all(run.join(dir))?;
    }
    Ok(())
}

/// Starts `linux` of the directory `kernel` with so many bytes of memory; its other words follow.
///
/// It keeps to one processor of this machine, the `turn`th, counted round: the kernel and its programs are
/// processes that wait for each other, and each turn takes longer between two processors.
pub fn command(
    tree: &Path,
    run: &Path,
    kernel: &Path,
    libvirt: Option<&Path>,
    memory: u64,
    turn: usize,
) -> Command {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut command = proc::command("taskset");
    command
        .args(["-c", &(turn % processors).to_string(), "unshare"])
        .args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", START, "sh"])
        .args([tree, run, kernel, libvirt.unwrap_or(Path::new(""))])
        .arg((memory * 2).to_string())
        .arg(format!("mem={}K", memory >> 10))
        .args(["uml_dir=/mnt/uml", &format!("umid={NAME}")])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("TMPDIR", "/dev/shm");
    command
}

/// Gives the kernel of a run a command whose answer is not awaited: one in a network namespace of its
/// own cannot reach us.
pub fn tell(run: &Path, command: &str) -> Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(console(run)).context("it has no console")?;
    socket.send(&request(command))?;
    Ok(())
}

fn console(run: &Path) -> PathBuf {
    run.join("uml").join(NAME).join("mconsole")
}

/// Gives the kernel of a run commands, such as `sysrq d`, which writes into its log which locks are
/// held, and `cad`, which is Ctrl-Alt-Del. What it says is in its log.
pub fn ask(run: &Path, commands: &[&str], deadline: Instant) -> Result<()> {
    // No path: the kernel's root is another than ours, and it replies to the name it is given.
    let own = SocketAddr::from_abstract_name(format!("{}/asking", run.display()))?;
    let socket = UnixDatagram::bind_addr(&own)?;
    socket.connect(console(run)).context("it has no console")?;
    for command in commands {
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
