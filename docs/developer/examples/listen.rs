// SPDX-License-Identifier: LGPL-2.1-or-later
//! Prints what volumes hold, then each growth and each change. An argument is a bus's address.

use futures_util::StreamExt as _;
use zbus::fdo::ObjectManagerProxy;
use zbus::message::Type;
use zbus::{MatchRule, MessageStream, connection};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let builder = match std::env::args().nth(1) {
        Some(address) => connection::Builder::address(address.as_str()),
        None => connection::Builder::system(),
    };
    let bus = builder.build().await?;
    let rule = MatchRule::builder().msg_type(Type::Signal).sender("org.virtnotify1").build()?;
    let mut signals = MessageStream::for_match_rule(rule, &bus, None).await?;
    // After the listening has begun, so that nothing is missed in between.
    let root = ObjectManagerProxy::new(&bus, "org.virtnotify1", "/org/virtnotify1").await?;
    for (_, interfaces) in root.get_managed_objects().await? {
        for (name, of) in interfaces {
            if name.as_str() == "org.virtnotify1.Volume" {
                println!("{} holds {} of {}", *of["Path"], *of["Allocation"], *of["Capacity"]);
            }
        }
    }
    while let Some(message) = signals.next().await {
        let message = message?;
        let header = message.header();
        match header.member().map(|member| member.as_str()) {
            Some("VolumeGrown") => {
                let (pool, volume, by, allocation, _): (String, String, u64, u64, u64) =
                    message.body().deserialize()?;
                println!("{pool}/{volume} grew by {by} to {allocation}");
            }
            Some(member) => println!("{} {member}", header.path().ok_or("no path")?),
            None => {}
        }
    }
    Ok(())
}
