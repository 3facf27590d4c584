// SPDX-License-Identifier: LGPL-2.1-or-later
//! `events`: the daemon's signals as lines.

use clap::ValueEnum;
use futures_util::StreamExt as _;
use serde_json::{Map, Value, json};
use zbus::message::Type;
use zbus::{MatchRule, Message, MessageStream, Structure, Variant};

use crate::args::{EventsArgs, code};
use crate::client::{self, Host, Problem};
use crate::notify::{LIMIT, Programs, Teller};
use crate::show::{out, size};

pub const INTERFACE: &str = "org.virtnotify1.Manager";
/// The names of a signal's arguments, as in `docs/developer/dbus.md`.
const MOVE: [&str; 7] = ["domain", "uuid", "pool", "volumes", "from", "to", "allocation"];

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Severity {
    /// Growth, and the course of what was asked for.
    Info,
    /// A VM moves, or something is well again.
    Notice,
    /// Something will go wrong unless it is looked at.
    Warning,
    /// A VM stands still, or data is in danger.
    Critical,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// The severity of a signal, and the names of its arguments.
fn known(signal: &str) -> (Severity, Vec<&'static str>) {
    use Severity::{Critical, Info, Notice, Warning};
    let with = |more: &[&'static str]| MOVE.iter().chain(more).copied().collect();
    match signal {
        "PoolStarted" | "PoolStopped" => (Info, vec!["pool"]),
        "VolumeCreated" => (Info, vec!["pool", "volume", "capacity"]),
        "VolumeDeleted" => (Info, vec!["pool", "volume"]),
        "VolumeGrown" => (Info, vec!["pool", "volume", "by", "allocation", "capacity"]),
        "SpaceLow" => (Warning, vec!["pool", "available"]),
        "SpaceAvailable" => (Notice, vec!["pool", "available"]),
        "SpaceExhausted" => (Critical, vec!["pool", "volume", "wanted", "available"]),
        "Damage" => (Critical, vec!["pool", "what"]),
        "Warning" => (Warning, vec!["domain", "what"]),
        "Resumed" => (Notice, vec!["domain"]),
        "PeerFailed" => (Warning, vec!["peer", "reason"]),
        "PeerReady" => (Notice, vec!["peer"]),
        "MoveStarted" | "MoveFinished" => (Notice, with(&[])),
        "MoveProgress" => (Info, with(&["done", "total"])),
        "MoveFailed" => (Warning, with(&["kind", "reason"])),
        "RunsTwice" => (Critical, with(&["reason"])),
        // A signal of a newer daemon.
        _ => (Warning, Vec::new()),
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
    fn new(signal: String, arguments: Map<String, Value>, host: &str) -> Self {
        let (severity, _) = known(&signal);
        // A move that is open, or was given up with something left, does not end by itself.
        let stuck = arguments.get("kind").is_some_and(|kind| kind == "open" || kind == "abandoned");
        let severity = if stuck { Severity::Critical } else { severity };
        let (host, time) = (host.to_owned(), jiff::Timestamp::now().strftime("%FT%TZ").to_string());
        Self { signal, severity, host, time, arguments }
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
}

/// `events`.
pub async fn run(host: Host<'_>, wanted: &EventsArgs, as_json: bool) -> Result<u8, Problem> {
    let connection = client::bus(host).await?;
    // The bus lets only the daemon have the name, so no other program's signals come with it.
    let rule = MatchRule::builder().msg_type(Type::Signal).sender("org.virtnotify1");
    let rule = rule.interface(INTERFACE).build()?;
    let signals = MessageStream::for_match_rule(rule, &connection, None).await?;
    let here = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let events = Events { signals, host: host.map_or(here, str::to_owned), wanted };
    match &wanted.run {
        None => {
            let print = |event: Told| match as_json {
                true => out(&event.json()),
                false => out(&format!("{}\n", event.line())),
            };
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
}

impl Events<'_> {
    /// Hands on as many events as are wanted.
    async fn each(
        mut self,
        mut tell: impl FnMut(Told) -> Result<(), Problem>,
    ) -> Result<u8, Problem> {
        let mut left = self.wanted.count.unwrap_or(u64::MAX);
        while left > 0
            && let Some(message) = self.signals.next().await
        {
            let Some((signal, arguments)) = read(&message?) else { continue };
            let event = Told::new(signal, arguments, &self.host);
            if event.severity >= self.wanted.severity {
                tell(event)?;
                left -= 1;
            }
        }
        match left {
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
    let (_, names) = known(&signal);
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
        let failed = |kind: &str| {
            let what = ("web", "uuid", "vms", volumes, "host1", "host2", 7u64);
            told(signal("MoveFailed", &(what, kind, "why"))).severity
        };
        let found = ["refused", "stayed", "open", "abandoned"].map(failed);
        use Severity::{Critical, Warning};
        assert_eq!(found, [Warning, Warning, Critical, Critical]);
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
            assert!(!known(signal).1.is_empty(), "{signal}");
        }
    }
}
