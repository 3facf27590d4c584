// SPDX-License-Identifier: LGPL-2.1-or-later
//! For whom a connection's calls are made.

use virtnotify_wire::connect::{ConnectSetIdentityArgs, TypedValue};

use crate::peer::{Peer, value};

/// A process and its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Its user.
    pub uid: u32,
    /// Its number.
    pub pid: i32,
    /// What tells it from a later one of that number.
    pub start_time: u64,
}

impl Caller {
    /// A client that speaks for itself; none if its process was gone before it could be looked at.
    pub(crate) fn of_peer(peer: &Peer) -> Option<Self> {
        let Peer { uid, pid, start_time, .. } = *peer;
        // Root may come out of a container, where its process has another number.
        (start_time != 0 || peer.is_root()).then_some(Caller { uid, pid, start_time })
    }

    /// For whom an identity stands, if it names a process: one on another host has none.
    pub(crate) fn of_identity(identity: &ConnectSetIdentityArgs) -> Option<Self> {
        let uid = match *value(identity, "unix-user-id")? {
            TypedValue::ULLong(uid) => u32::try_from(uid).ok()?,
            _ => return None,
        };
        let pid = match *value(identity, "process-id")? {
            TypedValue::LLong(pid) => i32::try_from(pid).ok()?,
            _ => return None,
        };
        match *value(identity, "process-time")? {
            TypedValue::ULLong(start_time) => Some(Caller { uid, pid, start_time }),
            _ => None,
        }
    }

    /// Whether libvirt trusts it with everything.
    pub(crate) fn is_root(self) -> bool {
        self.uid == 0
    }
}

#[cfg(test)]
mod tests {
    use virtnotify_wire::List;
    use virtnotify_wire::connect::TypedParam;

    use super::*;

    fn identity(params: &[(&str, TypedValue)]) -> ConnectSetIdentityArgs {
        let param = |(field, value): &(&str, TypedValue)| TypedParam {
            field: (*field).to_owned(),
            value: value.clone(),
        };
        ConnectSetIdentityArgs { params: List(params.iter().map(param).collect()), flags: 0 }
    }

    #[test]
    fn an_identity_is_a_process_with_its_user_or_nobody() {
        let uid = ("unix-user-id", TypedValue::ULLong(1000));
        let pid = ("process-id", TypedValue::LLong(7));
        let time = ("process-time", TypedValue::ULLong(9));
        let all = identity(&[uid.clone(), time.clone(), pid.clone()]);
        let caller = Caller { uid: 1000, pid: 7, start_time: 9 };
        assert_eq!(Caller::of_identity(&all), Some(caller));
        for part in [[uid.clone(), pid.clone()], [uid.clone(), time.clone()], [pid, time.clone()]] {
            assert_eq!(Caller::of_identity(&identity(&part)), None, "{part:?}");
        }
        let far = ("process-id", TypedValue::LLong(i64::MAX));
        assert_eq!(Caller::of_identity(&identity(&[uid.clone(), time.clone(), far])), None);
        // Another type of number than libvirt sends.
        let text = ("process-id", TypedValue::String("7".to_owned()));
        assert_eq!(Caller::of_identity(&identity(&[uid, time, text])), None);
    }

    #[test]
    fn a_client_whose_process_is_gone_is_nobody_but_root_is_root() {
        let peer = |uid| Peer { uid, gid: uid, pid: 7, start_time: 0, program: None };
        assert_eq!(Caller::of_peer(&peer(1000)), None);
        assert!(Caller::of_peer(&peer(0)).unwrap().is_root());
    }
}
