// SPDX-License-Identifier: LGPL-2.1-or-later
//! Recognises virt-install, virt-clone and virt-xml.
//!
//! These programs have a list of the pool types whose volumes are block devices, and take volumes of other types for
//! files: they would ask for qcow2, and have the VM open a device as a file. So they are shown pools of type `notify`
//! as a type of their list that they treat in the right way: raw volumes that take no space before they are written.
//! All other clients, such as virt-manager, see the real type.
//!
//! The client is recognised by the command line of its process, which libvirt's daemons name in the
//! identity that they set for it. No permission depends on that: a process that lies, is gone, or is on another machine
//! only sees the one type or the other.

use std::fs;
use std::time::Duration;

use crate::access::Caller;
use crate::peer::{program, start_time};
use crate::threads::Threads;

/// Whose list it is.
const PROGRAMS: [&str; 3] = ["virt-install", "virt-clone", "virt-xml"];

/// How long to look. Reading a command line waits for memory of that process, which may keep it waiting for ever: so the
/// thread on which that is done is one of its user's.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// Whether a process runs one of the programs.
pub(crate) async fn runs_installer(caller: Caller, threads: &Threads) -> bool {
    let looked = threads.run(move || looks_like_one(caller));
    tokio::time::timeout(LOOK_MAX, looked).await.is_ok_and(|looked| looked.unwrap_or(false))
}

fn looks_like_one(Caller { pid, start_time: started, .. }: Caller) -> bool {
    let line = || fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    program(pid).is_some_and(|program| program.starts_with("python"))
        && is_installers(&line())
        // Looked at last: it was the same process all the time.
        && start_time(pid) == Some(started)
}

/// Whether a command line of Python's is that of one of the programs:
/// `python3 -sP /usr/bin/virt-install ...`.
fn is_installers(line: &[u8]) -> bool {
    let mut words = line.split(|byte| *byte == 0).skip(1);
    let script = words.find(|word| !word.starts_with(b"-")).unwrap_or_default();
    let name = script.rsplit(|byte| *byte == b'/').next();
    PROGRAMS.iter().any(|program| name == Some(program.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};
    use std::sync::Arc;

    use super::*;
    use crate::turns::Turns;

    #[test]
    fn the_programs_are_known_and_no_others() {
        for line in [
            "python3\0/usr/bin/virt-install\0--name\0x\0",
            "/usr/bin/python3\0-sP\0/usr/bin/virt-clone\0",
            "python3.13\0-s\0-P\0./virt-xml\0",
        ] {
            assert!(is_installers(line.as_bytes()), "{line}");
        }
        for line in [
            "",
            "\0",
            "python3\0",
            "python3\0/usr/bin/virt-manager\0",
            "python3\0/root/script.py\0virt-install\0",
            "python3\0-c\0import this\0/usr/bin/virt-install\0",
            "python3\0/usr/bin/virt-install-not\0",
        ] {
            assert!(!is_installers(line.as_bytes()), "{line}");
        }
    }

    #[tokio::test]
    async fn a_process_is_who_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("virt-install");
        std::fs::write(&script, "import sys; print(flush=True); sys.stdin.read()\n").unwrap();
        let mut child = Command::new("python3")
            .arg(&script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0];
        child.stdout.take().unwrap().read_exact(&mut line).unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let started = start_time(pid).unwrap();
        let process = Caller { uid: 0, pid, start_time: started };
        let threads = Threads::new(&Arc::new(Turns::new(1)), process.uid);
        assert!(runs_installer(process, &threads).await);
        let other = Caller { start_time: started + 1, ..process };
        assert!(!runs_installer(other, &threads).await);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!runs_installer(process, &threads).await);
    }
}
