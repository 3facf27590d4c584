// SPDX-License-Identifier: LGPL-2.1-or-later
//! Who changed what: a line of the log for each call of ours that may change something.

use virtnotify_wire::connect::{ConnectSetIdentityArgs, TypedValue};
use virtnotify_wire::storage::{StoragePool, StorageVol};
use virtnotify_wire::{About, Procedure, RemoteError, decode};

use crate::peer::{Peer, program, value};

/// How much of a text from outside is shown.
const SHOWN: usize = 100;

/// A client as the kernel sees it.
pub(crate) fn who(peer: &Peer) -> String {
    format!("uid {}, pid {}, {}", peer.uid, peer.pid, named(peer.program.as_deref()))
}

/// The client for whom one of libvirt's daemons acts.
pub(crate) fn behalf(identity: &ConnectSetIdentityArgs, peer: &Peer) -> String {
    let number = |field: &str| match value(identity, field) {
        Some(TypedValue::ULLong(number)) => i64::try_from(*number).ok(),
        Some(TypedValue::LLong(number)) => Some(*number),
        _ => None,
    };
    let shown = |number: Option<i64>| number.map_or("?".to_owned(), |number| number.to_string());
    let (uid, pid) = (number("unix-user-id"), number("process-id"));
    let runs = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(program);
    let through = named(peer.program.as_deref());
    let runs = named(runs.as_deref());
    format!("uid {}, pid {}, {runs}, through {through}", shown(uid), shown(pid))
}

fn named(program: Option<&str>) -> String {
    program.map_or("an unknown program".to_owned(), quoted)
}

/// A text from outside on one line, and not too much of it.
fn quoted(text: &str) -> String {
    let start: String = text.chars().take(SHOWN).collect();
    format!("'{}'", start.escape_debug())
}

/// Looking for what a pool could be made of is not for read-only clients, and changes nothing.
fn changes(procedure: Procedure) -> bool {
    !procedure.allowed_read_only() && procedure.about() != About::Sources
}

/// The line, if it is a call that may change something. `defined` is the name in a definition.
pub(crate) fn line(
    who: &str,
    procedure: Procedure,
    args: &[u8],
    defined: Option<&str>,
    outcome: Option<&RemoteError>,
) -> Option<String> {
    if !changes(procedure) {
        return None;
    }
    let object = match defined {
        Some(name) => quoted(name),
        None => object(procedure, args),
    };
    let outcome = match (outcome, procedure.about()) {
        (Some(error), _) => {
            format!("failed: {}", quoted(error.message.as_deref().unwrap_or_default()))
        }
        (None, About::Upload | About::Download) => "begun".to_owned(),
        (None, _) => "done".to_owned(),
    };
    Some(format!("{procedure} of {object} by {who}: {outcome}"))
}

/// What a call is about: its first argument.
fn object(procedure: Procedure, args: &[u8]) -> String {
    let name = match procedure.about() {
        About::Volume | About::Download | About::Upload => {
            decode::<StorageVol>(args).map(|vol| format!("{}/{}", vol.pool, vol.name))
        }
        _ => decode::<StoragePool>(args).map(|pool| pool.name),
    };
    name.map_or_else(|_| "what cannot be read".to_owned(), |name| quoted(&name))
}

#[cfg(test)]
mod tests {
    use virtnotify_wire::connect::TypedParam;
    use virtnotify_wire::{ErrorCode, List, Uuid, encode};

    use super::*;

    fn peer(program: &str) -> Peer {
        let program = Some(program.to_owned());
        Peer { uid: 1000, gid: 1000, pid: 7, start_time: 1, program }
    }

    #[test]
    fn a_change_is_one_line_with_who_and_what() {
        let vol = StorageVol { pool: "vms".into(), name: "a\nb".into(), key: "k".into() };
        let args = encode(&vol).unwrap();
        let who = who(&peer("virsh"));
        let line = |procedure, outcome| line(&who, procedure, &args, None, outcome);
        assert_eq!(
            line(Procedure::StorageVolDelete, None).unwrap(),
            "STORAGE_VOL_DELETE of 'vms/a\\nb' by uid 1000, pid 7, 'virsh': done"
        );
        let error = RemoteError::new(ErrorCode::NO_STORAGE_VOL, "x\ny");
        assert_eq!(
            line(Procedure::StorageVolWipe, Some(&error)).unwrap(),
            "STORAGE_VOL_WIPE of 'vms/a\\nb' by uid 1000, pid 7, 'virsh': \
             failed: 'Storage volume not found: x\\ny'"
        );
        assert_eq!(line(Procedure::StorageVolGetInfo, None), None);
        let pool = StoragePool { name: "p".repeat(300), uuid: Uuid([1; 16]) };
        let made =
            super::line("x", Procedure::StorageVolCreateXml, &encode(&pool).unwrap(), None, None);
        let shown = "p".repeat(SHOWN);
        assert_eq!(made.unwrap(), format!("STORAGE_VOL_CREATE_XML of '{shown}' by x: done"));
        let defined =
            super::line("x", Procedure::StoragePoolDefineXml, &[], Some("vms"), None).unwrap();
        assert_eq!(defined, "STORAGE_POOL_DEFINE_XML of 'vms' by x: done");
    }

    /// Every call that a read-only client may not make is one that is told.
    #[test]
    fn every_change_has_a_line() {
        for procedure in Procedure::ALL.iter().filter(|procedure| procedure.is_storage()) {
            let told = line("x", *procedure, &[], None, None).is_some();
            let asks = *procedure == Procedure::ConnectFindStoragePoolSources;
            assert_eq!(told, !procedure.allowed_read_only() && !asks, "{procedure}");
        }
    }

    #[test]
    fn who_acts_through_libvirts_daemons_is_named() {
        let param = |field: &str, value| TypedParam { field: field.to_owned(), value };
        let identity = ConnectSetIdentityArgs {
            params: List(vec![
                param("unix-user-id", TypedValue::ULLong(1001)),
                param("process-id", TypedValue::LLong(-1)),
            ]),
            flags: 0,
        };
        assert_eq!(
            behalf(&identity, &peer("virtqemud")),
            "uid 1001, pid -1, an unknown program, through 'virtqemud'"
        );
    }
}
