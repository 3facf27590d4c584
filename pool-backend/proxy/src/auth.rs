// SPDX-License-Identifier: LGPL-2.1-or-later
//! Whether a client may connect at all, decided as libvirt's daemons decide it.
//!
//! Upstream cannot decide: it sees root connecting, and trusts root. So nothing of a
//! client is passed on before the answer here is yes. Root is always let in, so that a
//! broken polkit does not lock the administrator out. polkit gets pid, start time and
//! user, so that a recycled pid is no way in.

use std::collections::HashMap;

use virtnotify_wire::connect::AuthType;
use virtnotify_wire::{ErrorCode, ErrorDomain, RemoteError};
use zbus::Variant;
use zbus::proxy;

use crate::config::{Access, Auth};
use crate::peer::Peer;

/// What a client is told when it asks how to authenticate.
#[must_use]
pub fn required(auth: Auth, peer: &Peer) -> AuthType {
    match auth {
        Auth::Polkit if !peer.is_root() => AuthType::Polkit,
        Auth::Polkit | Auth::None => AuthType::None,
    }
}

fn action(access: Access) -> &'static str {
    match access {
        Access::ReadWrite => "org.libvirt.unix.manage",
        Access::ReadOnly => "org.libvirt.unix.monitor",
    }
}

type Subject<'a> = (&'a str, HashMap<&'a str, Variant<'a>>);

#[proxy(
    interface = "org.freedesktop.PolicyKit1.Authority",
    default_service = "org.freedesktop.PolicyKit1",
    default_path = "/org/freedesktop/PolicyKit1/Authority"
)]
trait Authority {
    fn check_authorization(
        &self,
        subject: &Subject<'_>,
        action: &str,
        details: HashMap<&str, &str>,
        flags: u32,
        cancellation: &str,
    ) -> zbus::Result<(bool, bool, HashMap<String, String>)>;
}

/// polkit may ask the user.
const ALLOW_USER_INTERACTION: u32 = 1;

/// Asks polkit about a client; may take as long as a person takes.
///
/// # Errors
/// What the client is to see when the answer is not yes.
pub async fn check_polkit(peer: &Peer, access: Access) -> Result<(), RemoteError> {
    if peer.start_time == 0 {
        let detail = "the client's process cannot be identified";
        return Err(refusal(ErrorCode::AUTH_FAILED, detail));
    }
    let action = action(access);
    let (authorized, challenge, details) = ask(peer, action).await.map_err(|error| {
        tracing::error!(%error, "polkit cannot be asked");
        refusal(ErrorCode::AUTH_FAILED, "polkit cannot be asked")
    })?;
    let dismissed = details.get("polkit.dismissed").is_some_and(|value| value == "true");
    match (authorized, dismissed, challenge) {
        (true, _, _) => Ok(()),
        (false, true, _) => {
            Err(refusal(ErrorCode::AUTH_CANCELLED, "user cancelled authentication process"))
        }
        (false, false, true) => {
            let detail = format!("no polkit agent available to authenticate action '{action}'");
            Err(refusal(ErrorCode::AUTH_UNAVAILABLE, detail))
        }
        (false, false, false) => Err(refusal(ErrorCode::AUTH_FAILED, "access denied by policy")),
    }
}

async fn ask(peer: &Peer, action: &str) -> zbus::Result<(bool, bool, HashMap<String, String>)> {
    let bus = zbus::Connection::system().await?;
    let authority = AuthorityProxy::new(&bus).await?;
    let pid = u32::try_from(peer.pid).unwrap_or(0);
    let uid = i32::try_from(peer.uid).unwrap_or(-1);
    let subject: Subject<'_> = (
        "unix-process",
        HashMap::from([
            ("pid", Variant::U32(pid)),
            ("start-time", Variant::U64(peer.start_time)),
            ("uid", Variant::I32(uid)),
        ]),
    );
    let details = HashMap::new();
    authority.check_authorization(&subject, action, details, ALLOW_USER_INTERACTION, "").await
}

fn refusal(code: ErrorCode, detail: impl Into<String>) -> RemoteError {
    RemoteError::of(ErrorDomain::POLKIT, code, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32) -> Peer {
        Peer { uid, gid: uid, pid: 1, start_time: 0, program: None }
    }

    #[test]
    fn root_is_let_in_and_others_as_configured() {
        assert_eq!(required(Auth::Polkit, &peer(0)), AuthType::None);
        assert_eq!(required(Auth::Polkit, &peer(1000)), AuthType::Polkit);
        assert_eq!(required(Auth::None, &peer(1000)), AuthType::None);
    }

    #[tokio::test]
    async fn a_process_without_start_time_is_refused_before_polkit_is_asked() {
        let refused = check_polkit(&peer(1000), Access::ReadWrite).await.unwrap_err();
        assert!(refused.is(ErrorCode::AUTH_FAILED));
    }
}
