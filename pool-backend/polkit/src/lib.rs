// SPDX-License-Identifier: LGPL-2.1-or-later
//! Asks polkit whether a user may do something.
//!
//! The caller decides what an answer means, and which users not to ask about (root). Asking takes
//! as long as a person takes to type a password. Without a clear yes the answer is never
//! [`Answer::Yes`]: a polkit that is not there is an error.

use std::collections::HashMap;

use zbus::{Connection, Variant, proxy};

/// Whether polkit may ask the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interaction {
    /// It may, as long as it takes. A question ends with the connection that it came over.
    Allowed,
    /// It answers by itself.
    Not,
}

impl Interaction {
    /// `CheckAuthorizationFlags`.
    fn flags(self) -> u32 {
        match self {
            Interaction::Allowed => 1,
            Interaction::Not => 0,
        }
    }
}

/// The subject: who wants to do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject<'a> {
    /// A process; its start time tells it from a later one of the same number.
    Process {
        /// Its number.
        pid: i32,
        /// When it started, in clock ticks since boot.
        start_time: u64,
        /// Its user.
        uid: u32,
    },
    /// The client with that unique name on the system bus, which no other client ever gets.
    BusName(&'a str),
}

/// What polkit says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is allowed.
    Yes,
    /// It is not.
    No,
    /// The user was asked and turned away.
    Dismissed,
    /// The user would have to be asked, and there is no agent to do it.
    NoAgent,
}

type SubjectArg<'a> = (&'a str, HashMap<&'a str, Variant<'a>>);

#[proxy(
    interface = "org.freedesktop.PolicyKit1.Authority",
    default_service = "org.freedesktop.PolicyKit1",
    default_path = "/org/freedesktop/PolicyKit1/Authority"
)]
trait Authority {
    fn check_authorization(
        &self,
        subject: &SubjectArg<'_>,
        action: &str,
        details: Details<'_>,
        flags: u32,
        cancellation: &str,
    ) -> zbus::Result<(bool, bool, HashMap<String, String>)>;
}

impl<'a> Subject<'a> {
    fn argument(self) -> SubjectArg<'a> {
        match self {
            Subject::Process { pid, start_time, uid } => (
                "unix-process",
                HashMap::from([
                    ("pid", Variant::U32(u32::try_from(pid).unwrap_or(0))),
                    ("start-time", Variant::U64(start_time)),
                    // The bits of the number: polkit has a signed one for the same.
                    ("uid", Variant::I32(i32::from_ne_bytes(uid.to_ne_bytes()))),
                ]),
            ),
            Subject::BusName(name) => {
                ("system-bus-name", HashMap::from([("name", Variant::from(name))]))
            }
        }
    }
}

/// What polkit's rules may look at beside who asks for what.
pub type Details<'a> = HashMap<&'a str, &'a str>;

/// Asks polkit, over a connection to the system bus. Details are for root alone to give.
///
/// # Errors
/// When polkit cannot be asked.
pub async fn ask(
    bus: &Connection,
    subject: Subject<'_>,
    action: &str,
    details: Details<'_>,
    interaction: Interaction,
) -> zbus::Result<Answer> {
    let authority = AuthorityProxy::new(bus).await?;
    let subject = subject.argument();
    let asked =
        authority.check_authorization(&subject, action, details, interaction.flags(), "").await?;
    let (authorized, challenge, details) = asked;
    let dismissed = details.get("polkit.dismissed").is_some_and(|value| value == "true");
    Ok(match (authorized, dismissed, challenge) {
        (true, _, _) => Answer::Yes,
        (false, true, _) => Answer::Dismissed,
        (false, false, true) => Answer::NoAgent,
        (false, false, false) => Answer::No,
    })
}
