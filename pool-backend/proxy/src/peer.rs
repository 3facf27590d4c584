// SPDX-License-Identifier: LGPL-2.1-or-later
//! Who is at the other end of a socket, as the kernel says.

use std::{fs, io};

use nix::unistd::{Gid, Group, Uid, User};
use tokio::net::UnixStream;
use virtnotify_wire::List;
use virtnotify_wire::connect::{ConnectSetIdentityArgs, TypedParam, TypedValue};

/// A client's process, from `SO_PEERCRED` at the time it connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its process.
    pub pid: i32,
    /// When that process started, in clock ticks since boot; 0 if it is gone. Tells it
    /// from a later process of the same number.
    pub start_time: u64,
    /// The file name of its program, if it can be seen.
    pub program: Option<String>,
}

impl Peer {
    /// Asks the kernel.
    ///
    /// # Errors
    /// When the socket has no peer with credentials.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let pid = credentials.pid().unwrap_or(0);
        Ok(Peer {
            uid: credentials.uid(),
            gid: credentials.gid(),
            pid,
            start_time: start_time(pid).unwrap_or(0),
            program: program(pid),
        })
    }

    /// Whether libvirt trusts this client with everything.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// The identity to hand on upstream, with the parameters that libvirt's daemons
    /// make of such a client. Looks up names, so it may block.
    #[must_use]
    pub fn identity(&self) -> ConnectSetIdentityArgs {
        let mut params = vec![
            param("unix-user-id", TypedValue::ULLong(self.uid.into())),
            param("unix-group-id", TypedValue::ULLong(self.gid.into())),
            param("process-id", TypedValue::LLong(self.pid.into())),
            param("process-time", TypedValue::ULLong(self.start_time)),
        ];
        if let Ok(Some(user)) = User::from_uid(Uid::from_raw(self.uid)) {
            params.push(param("user-name", TypedValue::String(user.name)));
        }
        if let Ok(Some(group)) = Group::from_gid(Gid::from_raw(self.gid)) {
            params.push(param("group-name", TypedValue::String(group.name)));
        }
        ConnectSetIdentityArgs { params: List(params), flags: 0 }
    }
}

/// What an identity says of a field.
pub(crate) fn value<'a>(
    identity: &'a ConnectSetIdentityArgs,
    field: &str,
) -> Option<&'a TypedValue> {
    identity.params.iter().find(|param| param.field == field).map(|param| &param.value)
}

fn param(field: &str, value: TypedValue) -> TypedParam {
    TypedParam { field: field.to_owned(), value }
}

/// When a process started, in clock ticks since boot, if it is there.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    parse_start_time(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The 22nd field of `/proc/<pid>/stat`. The second one is a name in parentheses that
/// may itself hold anything, so counting starts behind the last parenthesis.
fn parse_start_time(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

/// The file name of a process's program, if it can be seen.
pub(crate) fn program(pid: i32) -> Option<String> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let name = path.file_name()?.to_str()?;
    // A program whose package was upgraded while it runs.
    Some(name.strip_suffix(" (deleted)").unwrap_or(name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_a_hostile_name() {
        let fields = (3..=52).map(|field| field.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(parse_start_time(&format!("7 (a) 1 ) 2) {fields}\n")), Some(22));
        assert_eq!(parse_start_time("7 (a) S 1"), None);
    }

    #[tokio::test]
    async fn our_own_end_of_a_pair_is_us() {
        let (here, _there) = UnixStream::pair().unwrap();
        let peer = Peer::of(&here).unwrap();
        assert_eq!(peer.pid, i32::try_from(std::process::id()).unwrap());
        assert_ne!(peer.start_time, 0);
        assert!(peer.program.unwrap().starts_with("virtnotify_proxy"));
    }
}
