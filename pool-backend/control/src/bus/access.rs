// SPDX-License-Identifier: LGPL-2.1-or-later
//! Callers that may change things: root, the user as whom this runs (who is root on a host), and users whom polkit
//! allows it.

use std::sync::Arc;

use nix::unistd::geteuid;
use virtnotify_polkit::{Answer, Details, Interaction, Subject};
use zbus::Connection;
use zbus::fdo::DBusProxy;
use zbus::message::{Flags, Header};
use zbus::names::UniqueName;

use super::Sources;
use super::error::Error;
use super::places::{Place, Places};

/// The action that polkit is asked about.
const MANAGE: &str = "org.virtnotify1.manage";
/// A user that the bus cannot name any more: the one of the kernel's `overflowuid`.
const NOBODY: u32 = 65534;

impl Sources {
    /// Whether the sender of this message may change things. The bus itself says who it is, and
    /// never gives a name to another program. Root, and the user as whom this runs, are let in without polkit, so that a VM can
    /// start where polkit does not run.
    pub async fn may_manage(
        &self,
        connection: &Connection,
        header: &Header<'_>,
    ) -> Result<(), Error> {
        let sender = header.sender().ok_or_else(|| refused("the message has no sender"))?;
        // A person may take long to answer polkit.
        let Some(_place) = enter(&self.decisions, connection, header).await? else { return Ok(()) };
        decided(connection, header, sender).await
    }

    /// Who sent this message, for the log.
    pub async fn who(&self, connection: &Connection, header: &Header<'_>) -> String {
        let sender = header.sender().map_or("nobody", |sender| sender.as_str());
        match user(connection, header).await {
            Ok(uid) => format!("user {uid} ({sender})"),
            Err(_) => sender.to_owned(),
        }
    }

    /// A place for a question, which every user may ask. Root and our own user need none.
    pub async fn place(
        &self,
        connection: &Connection,
        header: &Header<'_>,
    ) -> Result<Option<Place>, Error> {
        enter(&self.looks, connection, header).await
    }
}

/// A place for the user who sent this message; none for root and our own user.
async fn enter(
    places: &Arc<Places>,
    connection: &Connection,
    header: &Header<'_>,
) -> Result<Option<Place>, Error> {
    let uid = user(connection, header).await?;
    let length = usize::try_from(header.primary().body_len()).unwrap_or(usize::MAX);
    if uid == 0 || uid == geteuid().as_raw() {
        Ok(None)
    } else {
        places.enter(uid, length).map(Some)
    }
}

/// Whose message it is, as the bus says.
async fn user(connection: &Connection, header: &Header<'_>) -> Result<u32, Error> {
    let Some(sender) = header.sender() else { return Ok(NOBODY) };
    let bus = DBusProxy::new(connection).await?;
    Ok(bus.get_connection_unix_user(sender.clone().into()).await.unwrap_or(NOBODY))
}

fn refused(why: &str) -> Error {
    Error::NotAuthorized(format!("this needs '{MANAGE}': {why}"))
}

async fn decided(
    connection: &Connection,
    header: &Header<'_>,
    sender: &UniqueName<'_>,
) -> Result<(), Error> {
    let subject = Subject::BusName(sender.as_str());
    let (details, interaction) = (Details::new(), interaction(header));
    match virtnotify_polkit::ask(connection, subject, MANAGE, details, interaction).await {
        Ok(Answer::Yes) => Ok(()),
        Ok(_) => Err(refused("polkit says no")),
        Err(error) => Err(refused(&format!("polkit cannot be asked: {error}"))),
    }
}

/// A dialog is for callers alone that have said that they can wait for one.
fn interaction(header: &Header<'_>) -> Interaction {
    match header.primary().flags().contains(Flags::ALLOW_INTERACTIVE_AUTH) {
        true => Interaction::Allowed,
        false => Interaction::Not,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::Message;

    #[test]
    fn a_dialog_is_for_callers_that_asked_for_it() {
        let call = || Message::method_call("/", "CheckIt");
        let plain = call().build(&()).unwrap();
        assert_eq!(interaction(&plain.header()), Interaction::Not);
        let patient = call().with_flags(Flags::ALLOW_INTERACTIVE_AUTH);
        let patient = patient.build(&()).unwrap();
        assert_eq!(interaction(&patient.header()), Interaction::Allowed);
    }
}
