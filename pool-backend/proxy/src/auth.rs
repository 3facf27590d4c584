// SPDX-License-Identifier: LGPL-2.1-or-later
//! Whether a client may connect at all, decided as libvirt's daemons decide it.
//!
//! Upstream cannot decide: it sees root connecting, and trusts root. So nothing of a
//! client is passed on before the answer here is yes. Root is always let in, so that a
//! broken polkit does not lock the administrator out. polkit gets pid, start time and
//! user, so that a recycled pid is no way in.

use virtnotify_polkit::{Answer, Details, Interaction, Subject};
use virtnotify_wire::connect::AuthType;
use virtnotify_wire::{ErrorCode, ErrorDomain, RemoteError};

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
    let subject = Subject::Process { pid: peer.pid, start_time: peer.start_time, uid: peer.uid };
    match ask(subject, action).await {
        Ok(Answer::Yes) => Ok(()),
        Ok(Answer::No) => Err(refusal(ErrorCode::AUTH_FAILED, "access denied by policy")),
        Ok(Answer::Dismissed) => {
            Err(refusal(ErrorCode::AUTH_CANCELLED, "user cancelled authentication process"))
        }
        Ok(Answer::NoAgent) => {
            let detail = format!("no polkit agent available to authenticate action '{action}'");
            Err(refusal(ErrorCode::AUTH_UNAVAILABLE, detail))
        }
        Err(error) => {
            Err(refusal(ErrorCode::AUTH_FAILED, format!("polkit cannot be asked: {error}")))
        }
    }
}

async fn ask(subject: Subject<'_>, action: &str) -> zbus::Result<Answer> {
    // A connection for each question: when the client hangs up, its dialog ends.
    let bus = zbus::Connection::system().await?;
    virtnotify_polkit::ask(&bus, subject, action, Details::new(), Interaction::Allowed).await
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
