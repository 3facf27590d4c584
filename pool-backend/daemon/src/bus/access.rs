// SPDX-License-Identifier: LGPL-2.1-or-later
//! Who may change things: root, and whoever polkit lets.

use std::collections::HashMap;

use zbus::fdo::DBusProxy;
use zbus::message::Header;
use zbus::{Connection, Variant, proxy};

use super::error::Error;

/// The action that polkit is asked about.
const MANAGE: &str = "org.virtnotify1.manage";
/// polkit may ask the user.
const ALLOW_USER_INTERACTION: u32 = 1;

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

/// Whether the sender of this message may change things. The bus itself says who it is, and a
/// bus name is never given to somebody else. Root is let in without polkit, so that a VM can
/// start where polkit does not run.
pub async fn may_manage(connection: &Connection, header: &Header<'_>) -> Result<(), Error> {
    let refused = |why: &str| Error::NotAuthorized(format!("this needs '{MANAGE}': {why}"));
    let sender = header.sender().ok_or_else(|| refused("the message has no sender"))?;
    let bus = DBusProxy::new(connection).await?;
    let uid = bus.get_connection_unix_user(sender.clone().into()).await;
    if uid.is_ok_and(|uid| uid == 0) {
        return Ok(());
    }
    let name = HashMap::from([("name", Variant::from(sender.as_str()))]);
    let subject: Subject<'_> = ("system-bus-name", name);
    let authority = AuthorityProxy::new(connection).await?;
    let asked = authority
        .check_authorization(&subject, MANAGE, HashMap::new(), ALLOW_USER_INTERACTION, "")
        .await;
    match asked {
        Ok((true, _, _)) => Ok(()),
        Ok(_) => Err(refused("polkit says no")),
        Err(error) => Err(refused(&format!("polkit cannot be asked: {error}"))),
    }
}
