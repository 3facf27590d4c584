// SPDX-License-Identifier: LGPL-2.1-or-later
//! `events`: the daemon's signals as lines.

use futures_util::StreamExt as _;
use serde_json::{Map, Value, json};
use zbus::message::Type;
use zbus::{MatchRule, Message, MessageStream, Structure, Variant};

use crate::args::code;
use crate::show::{out, size};
use crate::way::{self, Host, Problem};

pub const INTERFACE: &str = "org.virtnotify1.Manager";
/// What the arguments of a signal are called, as in `docs/dbus.md`.
const MOVE: [&str; 7] = ["domain", "uuid", "pool", "volumes", "from", "to", "allocation"];

fn names(signal: &str) -> Vec<&'static str> {
    let with = |more: &[&'static str]| MOVE.iter().chain(more).copied().collect();
    match signal {
        "PoolStarted" | "PoolStopped" => vec!["pool"],
        "VolumeCreated" => vec!["pool", "volume", "capacity"],
        "VolumeDeleted" => vec!["pool", "volume"],
        "VolumeGrown" => vec!["pool", "volume", "by", "allocation", "capacity"],
        "SpaceLow" | "SpaceAvailable" => vec!["pool", "available"],
        "SpaceExhausted" => vec!["pool", "volume", "wanted", "available"],
        "Damage" => vec!["pool", "what"],
        "Warning" => vec!["domain", "what"],
        "Resumed" => vec!["domain"],
        "PeerFailed" => vec!["peer", "reason"],
        "PeerReady" => vec!["peer"],
        "MoveStarted" | "MoveFinished" => with(&[]),
        "MoveProgress" => with(&["done", "total"]),
        "MoveFailed" => with(&["kind", "reason"]),
        "RunsTwice" => with(&["reason"]),
        _ => Vec::new(),
    }
}

/// `events`.
pub async fn run(host: Host<'_>, count: Option<u64>, as_json: bool) -> Result<u8, Problem> {
    let connection = way::bus(host).await?;
    // The bus lets only the daemon have the name, so nobody else's signals come with it.
    let rule = MatchRule::builder().msg_type(Type::Signal).sender("org.virtnotify1");
    let rule = rule.interface(INTERFACE).build()?;
    let mut signals = MessageStream::for_match_rule(rule, &connection, None).await?;
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0
        && let Some(message) = signals.next().await
    {
        if let Some((signal, arguments)) = read(&message?) {
            out(&line(&signal, arguments, as_json))?;
            left -= 1;
        }
    }
    match left {
        0 => Ok(code::FINE),
        _ => Err(Problem::Cannot("the bus has closed the connection".into())),
    }
}

/// A signal and its arguments by name; one that is not known has numbers for names.
pub fn read(message: &Message) -> Option<(String, Map<String, Value>)> {
    let signal = message.header().member()?.to_string();
    let body = message.body();
    let fields: Structure<'_> = body.deserialize().ok()?;
    let names = names(&signal);
    // What moves is one argument of several parts.
    let parts = fields.fields().iter().flat_map(|field| match field {
        Variant::Structure(of) => of.fields().iter().collect(),
        other => vec![other],
    });
    let named = parts.enumerate().map(|(n, field)| {
        let name = names.get(n).map_or_else(|| format!("argument{n}"), |name| (*name).to_owned());
        (name, value(field))
    });
    Some((signal, named.collect()))
}

fn value(field: &Variant<'_>) -> Value {
    match field {
        Variant::U64(number) => json!(number),
        Variant::Str(text) => json!(text.as_str()),
        Variant::Bool(bit) => json!(bit),
        Variant::Array(items) => Value::Array(items.iter().map(|item| value(item)).collect()),
        other => json!(other.to_string()),
    }
}

fn line(signal: &str, arguments: Map<String, Value>, as_json: bool) -> String {
    if as_json {
        let mut object = Map::from_iter([("signal".to_owned(), json!(signal))]);
        object.extend(arguments);
        return format!("{}\n", Value::Object(object));
    }
    let word = |value: &Value| match value {
        Value::Number(number) => size(number.as_u64().unwrap_or(0)),
        Value::String(text) => text.escape_debug().to_string(),
        Value::Array(items) => {
            let words = items.iter().map(|item| item.as_str().unwrap_or_default().escape_debug());
            words.map(|word| word.to_string()).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    };
    let words: Vec<String> =
        arguments.iter().map(|(name, value)| format!("{name}={}", word(value))).collect();
    format!("{signal}  {}\n", words.join("  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signal(
        name: &str,
        body: &(impl serde::Serialize + zbus::Type),
    ) -> (String, Map<String, Value>) {
        let message = Message::signal("/org/virtnotify1", INTERFACE, name);
        read(&message.build(body).unwrap()).unwrap()
    }

    #[test]
    fn signals_become_lines() {
        let (name, arguments) =
            signal("VolumeGrown", &("vms", "disk0", 4u64 << 20, 8u64 << 20, 1u64));
        let text = line(&name, arguments.clone(), false);
        let says = "VolumeGrown  pool=vms  volume=disk0  by=4.00 MiB  allocation=8.00 MiB";
        assert!(text.starts_with(says), "{text}");
        let json = line(&name, arguments, true);
        assert!(json.starts_with(r#"{"signal":"VolumeGrown","pool":"vms""#), "{json}");
        assert!(json.contains(r#""by":4194304"#), "{json}");
        let (name, arguments) = signal("PoolStarted", &("vms",));
        assert_eq!(line(&name, arguments, false), "PoolStarted  pool=vms\n");
    }

    #[test]
    fn what_is_not_known_is_shown_all_the_same() {
        let (name, arguments) = signal("Later", &("a", vec!["b", "c"], true));
        let text = line(&name, arguments, false);
        assert_eq!(text, "Later  argument0=a  argument1=b,c  argument2=true\n");
    }
}
