// SPDX-License-Identifier: LGPL-2.1-or-later
//! `events`: what the daemon remembers, and its signals, as lines.

use futures_util::StreamExt as _;
use serde_json::{Map, Value, json};
use virtnotify_model::Severity;
use zbus::message::Type;
use zbus::{MatchRule, Message, MessageStream, OwnedVariant, Structure, Variant};

use crate::args::{EventsArgs, code};
use crate::client::{self, EventRow, Host, Problem};
use crate::notify::{LIMIT, Programs, Teller};
use crate::show::{out, size};
use crate::since;

pub const INTERFACE: &str = "org.virtnotify1.Manager";
/// The names of a signal's arguments, as in `docs/developer/dbus.md`.
const MOVE: [&str; 7] = ["domain", "uuid", "pool", "volumes", "from", "to", "allocation"];

/// The names of a signal's arguments; none of one that a newer daemon has.
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

/// An event.
#[derive(Debug, Clone)]
pub struct Told {
    pub signal: String,
    pub severity: Severity,
    /// The host on which it happened.
    pub host: String,
    /// When it was heard, as in RFC 3339.
    pub time: String,
    pub arguments: Map<String, Value>,
}

impl Told {
    /// One that is heard now.
    fn new(signal: String, arguments: Map<String, Value>, host: &str) -> Self {
        let kind = arguments.get("kind").and_then(Value::as_str);
        let severity = Severity::of(&signal, kind);
        let (host, time) = (host.to_owned(), date(jiff::Timestamp::now()));
        Self { signal, severity, host, time, arguments }
    }

    /// One that the daemon remembers.
    fn remembered((time, severity, signal, mut details): EventRow, host: &str) -> Self {
        let first = names(&signal).into_iter().filter_map(|name| details.remove_entry(name));
        let mut arguments: Vec<(String, OwnedVariant)> = first.collect();
        // Those that are not known here.
        arguments.extend(details);
        let arguments = arguments.iter().map(|(name, field)| (name.clone(), value(field)));
        Self {
            // That of a newer daemon.
            severity: severity.parse().unwrap_or(Severity::Warning),
            host: host.to_owned(),
            time: date(since::timestamp(time).unwrap_or_default()),
            arguments: arguments.collect(),
            signal,
        }
    }

    /// All of it by name.
    pub fn object(&self) -> Map<String, Value> {
        let (severity, signal) = (json!(self.severity.word()), json!(self.signal));
        let own = [
            ("signal", signal),
            ("severity", severity),
            ("host", json!(self.host)),
            ("time", json!(self.time)),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        own.into_iter().chain(self.arguments.clone()).collect()
    }

    pub fn json(&self) -> String {
        format!("{}\n", Value::Object(self.object()))
    }

    /// The event as a sentence.
    pub fn line(&self) -> String {
        let word = |value: &Value| match value {
            Value::Number(number) => size(number.as_u64().unwrap_or(0)),
            Value::String(text) => text.escape_debug().to_string(),
            Value::Array(items) => {
                let words =
                    items.iter().map(|item| item.as_str().unwrap_or_default().escape_debug());
                words.map(|word| word.to_string()).collect::<Vec<_>>().join(",")
            }
            other => other.to_string(),
        };
        let words: Vec<String> =
            self.arguments.iter().map(|(name, value)| format!("{name}={}", word(value))).collect();
        format!("{}  {}", self.signal, words.join("  "))
    }

    /// The same with its time and severity.
    fn dated(&self) -> String {
        format!("{}  {:8}  {}", self.time, self.severity.word(), self.line())
    }
}

/// A time as in RFC 3339.
fn date(time: jiff::Timestamp) -> String {
    time.strftime("%FT%TZ").to_string()
}

/// `events`.
pub async fn run(host: Host<'_>, wanted: &EventsArgs, as_json: bool) -> Result<u8, Problem> {
    let connection = client::bus(host).await?;
    // The bus lets only the daemon have the name, so no other program's signals come with it.
    let rule = MatchRule::builder().msg_type(Type::Signal).sender("org.virtnotify1");
    let rule = rule.interface(INTERFACE).build()?;
    let signals = MessageStream::for_match_rule(rule, &connection, None).await?;
    let here = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let left = wanted.count.unwrap_or(u64::MAX);
    let mut events =
        Events { signals, host: host.map_or(here, str::to_owned), wanted, left, known: Vec::new() };
    match &wanted.run {
        None => {
            let mut print = |event: Told| match as_json {
                true => out(&event.json()),
                false => out(&format!("{}\n", event.dated())),
            };
            if let Some(since) = &wanted.since {
                events.remembered(&connection, since, &mut print).await?;
                if !wanted.follow || events.left == 0 {
                    return Ok(code::FINE);
                }
            }
            events.each(print).await
        }
        Some(directory) => {
            let programs = Programs::of(directory);
            // A directory that is not there is said at once, and not at the first event.
            programs.list()?;
            let (mut teller, work) = Teller::new(programs);
            let heard = async move {
                events
                    .each(|event| {
                        teller.tell(event);
                        Ok(())
                    })
                    .await
            };
            let mut work = std::pin::pin!(work);
            let heard = tokio::select! {
                heard = heard => heard,
                () = &mut work => return Ok(code::FINE),
            };
            match &heard {
                Ok(_) => work.await,
                // A new listener, which hears what happens from now on, is worth more than all that
                // waits.
                Err(_) => drop(tokio::time::timeout(LIMIT, work).await),
            }
            heard
        }
    }
}

struct Events<'a> {
    signals: MessageStream,
    host: String,
    wanted: &'a EventsArgs,
    /// So many more are wanted.
    left: u64,
    /// Remembered ones of which the signal may be heard as well.
    known: Vec<(String, Map<String, Value>)>,
}

impl Events<'_> {
    /// Hands on the events that the daemon remembers, and says if they do not go back as far as is wanted.
    async fn remembered(
        &mut self,
        connection: &zbus::Connection,
        since: &str,
        mut tell: impl FnMut(Told) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let now = jiff::Timestamp::now();
        let wanted = since::parse(since, now)?;
        let (since, rows) = client::ManagerProxy::new(connection).await?.events(wanted).await?;
        if since > wanted {
            let since = date(since::timestamp(since).unwrap_or_default());
            eprintln!("virt-notify: events before {since} are not known");
        }
        // Signals have been heard since a moment ago.
        let both = u64::try_from(now.as_second()).unwrap_or(0).saturating_sub(1);
        for row in rows {
            let time = row.0;
            let event = Told::remembered(row, &self.host);
            if time >= both {
                self.known.push((event.signal.clone(), event.arguments.clone()));
            }
            self.hand_on(event, &mut tell)?;
        }
        Ok(())
    }

    fn hand_on(
        &mut self,
        event: Told,
        mut tell: impl FnMut(Told) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        if self.left > 0 && event.severity >= self.wanted.severity {
            tell(event)?;
            self.left -= 1;
        }
        Ok(())
    }

    /// Hands on as many events as are wanted.
    async fn each(
        mut self,
        mut tell: impl FnMut(Told) -> Result<(), Problem>,
    ) -> Result<u8, Problem> {
        while self.left > 0
            && let Some(message) = self.signals.next().await
        {
            let Some(heard) = read(&message?) else { continue };
            if let Some(at) = self.known.iter().position(|known| *known == heard) {
                self.known.swap_remove(at);
                continue;
            }
            let event = Told::new(heard.0, heard.1, &self.host);
            self.hand_on(event, &mut tell)?;
        }
        match self.left {
            0 => Ok(code::FINE),
            _ => Err(Problem::Cannot("the bus has closed the connection".into())),
        }
    }
}

/// A signal and its arguments by name; an unknown signal has numbers for names.
pub fn read(message: &Message) -> Option<(String, Map<String, Value>)> {
    let signal = message.header().member()?.to_string();
    let body = message.body();
    let fields: Structure<'_> = body.deserialize().ok()?;
    let names = names(&signal);
    // The move is one argument of several parts.
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

    fn told(signal: (String, Map<String, Value>)) -> Told {
        Told::new(signal.0, signal.1, "host1")
    }

    #[test]
    fn signals_become_lines() {
        let grown = told(signal("VolumeGrown", &("vms", "disk0", 4u64 << 20, 8u64 << 20, 1u64)));
        let text = grown.line();
        let says = "VolumeGrown  pool=vms  volume=disk0  by=4.00 MiB  allocation=8.00 MiB";
        assert!(text.starts_with(says), "{text}");
        let json = grown.json();
        assert!(
            json.starts_with(
                r#"{"signal":"VolumeGrown","severity":"info","host":"host1","time":"2"#
            ),
            "{json}"
        );
        assert!(json.contains(r#""by":4194304"#), "{json}");
        assert_eq!(told(signal("PoolStarted", &("vms",))).line(), "PoolStarted  pool=vms");
    }

    #[test]
    fn what_is_not_known_is_shown_all_the_same() {
        let later = told(signal("Later", &("a", vec!["b", "c"], true)));
        assert_eq!(later.line(), "Later  argument0=a  argument1=b,c  argument2=true");
        assert_eq!(later.severity, Severity::Warning);
    }

    #[test]
    fn a_move_that_does_not_end_is_critical() {
        let volumes: &[&str] = &["disk0"];
        let what = ("web", "uuid", "vms", volumes, "host1", "host2", 7u64);
        let told = told(signal("MoveFailed", &(what, "open", "why")));
        assert_eq!(told.severity, Severity::Critical);
    }

    #[test]
    fn what_the_daemon_remembers_reads_as_its_signal_did() {
        let heard = told(signal("SpaceExhausted", &("vms", "disk0", 4u64 << 20, 0u64)));
        let field = |name: &str, value: Variant<'_>| (name.to_owned(), value.try_into().unwrap());
        let details = [
            field("available", 0u64.into()),
            field("wanted", (4u64 << 20).into()),
            field("volume", "disk0".into()),
            field("pool", "vms".into()),
            field("later", true.into()),
        ];
        let row = (1_796_040_000, "critical".into(), "SpaceExhausted".into(), details.into());
        let told = Told::remembered(row, "host1");
        assert_eq!(told.line(), format!("{}  later=true", heard.line()));
        let dated = "2026-11-30T12:00:00Z  critical  SpaceExhausted  pool=vms";
        assert!(told.dated().starts_with(dated), "{}", told.dated());
    }

    /// Each signal that the daemon has is known here.
    #[test]
    fn all_signals_are_known() {
        let xml = include_str!("../../control/src/bus/interface.xml");
        let xml = &xml[xml.find(INTERFACE).unwrap()..];
        let xml = &xml[..xml.find("</interface>").unwrap()];
        let signals: Vec<_> = xml
            .split("<signal name=\"")
            .skip(1)
            .map(|rest| &rest[..rest.find('"').unwrap()])
            .collect();
        assert!(signals.len() > 10, "{signals:?}");
        for signal in signals {
            assert!(!names(signal).is_empty(), "{signal}");
        }
    }
}
