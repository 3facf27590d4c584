// SPDX-License-Identifier: LGPL-2.1-or-later
//! `migrate`: moves a VM, and watches. Ctrl-C cancels the move; a second one only stops watching.

use std::io::{self, IsTerminal as _};
use std::num::NonZero;

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use zbus::message::Type;
use zbus::{MatchRule, Message, MessageStream};

use crate::args::code;
use crate::client::{self, Host, ManagerProxy, NAME, Problem};
use crate::events::{INTERFACE, read};
use crate::show::{out, size};

/// Signals that may wait while the daemon prepares the move.
const QUEUE: NonZero<usize> = NonZero::<usize>::MIN.saturating_add(4095);

/// A signal about our move.
enum News {
    Progress(u64, u64),
    Finished(String),
    /// It does not end: where the VM is going to run is not known yet.
    Open(String),
    /// The kind of failure, in a word, and the reason.
    Failed(String, String),
    Twice(String),
}

/// `migrate`.
pub async fn run(
    host: Host<'_>,
    domain: &str,
    to: Option<&str>,
    as_json: bool,
) -> Result<u8, Problem> {
    let daemon = client::daemon(host).await?;
    let connection = daemon.inner().connection();
    // Before it begins: no signal is missed.
    let rule = MatchRule::builder().msg_type(Type::Signal).sender(NAME).interface(INTERFACE);
    let mut signals = MessageStream::for_match_rule(rule.build()?, connection, Some(QUEUE)).await?;
    let gone = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender("org.freedesktop.DBus")
        .member("NameOwnerChanged")
        .arg(0, NAME);
    let mut gone = MessageStream::for_match_rule(gone.build()?, connection, None).await?;
    // It takes a while to choose a peer: Ctrl-C meanwhile means that no move is wanted.
    let mut interrupts = client::interrupts()?;
    let path = daemon.migrate(domain, to.unwrap_or_default()).await?;
    let uuid = path.as_str().rsplit('/').next().unwrap_or_default().to_owned();
    let mut cancelled = false;
    loop {
        tokio::select! {
            message = signals.next() => {
                let Some(Ok(message)) = message else { return Err(lost()) };
                let Some(news) = news(&message, &uuid) else { continue };
                if let Some(code) = tell(domain, news, cancelled, as_json)? {
                    return Ok(code);
                }
            }
            _ = gone.next() => return Err(lost()),
            _ = interrupts.recv() => {
                if std::mem::replace(&mut cancelled, true) {
                    return Err(Problem::Cannot("the move is not watched any more; it ends by itself".into()));
                }
                end(&daemon, &uuid).await?;
            }
        }
    }
}

fn lost() -> Problem {
    Problem::Cannot(
        "virtnotify-control is gone; when it is back it says what became of the move".into(),
    )
}

/// `cancel`.
pub async fn cancel(host: Host<'_>, domain: &str) -> Result<u8, Problem> {
    client::daemon(host).await?.cancel_move(domain).await?;
    Ok(code::FINE)
}

async fn end(daemon: &ManagerProxy<'_>, uuid: &str) -> Result<(), Problem> {
    eprintln!("virt-notify: cancelling");
    match daemon.cancel_move(uuid).await {
        // It is just over: its last signal is on its way.
        Err(zbus::Error::MethodError(name, ..)) if name.ends_with("NotFound") => Ok(()),
        other => Ok(other?),
    }
}

/// A signal about the move of the VM with that UUID.
fn news(message: &Message, uuid: &str) -> Option<News> {
    let (signal, of) = read(message)?;
    let text = |name: &str| of.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |name: &str| of.get(name).and_then(Value::as_u64).unwrap_or(0);
    if text("uuid").replace('-', "") != uuid {
        return None;
    }
    match signal.as_str() {
        "MoveProgress" => Some(News::Progress(number("done"), number("total"))),
        "MoveFinished" => Some(News::Finished(text("to"))),
        "MoveFailed" if text("kind") == "open" => Some(News::Open(text("reason"))),
        "MoveFailed" => Some(News::Failed(text("kind"), text("reason"))),
        "RunsTwice" => Some(News::Twice(text("reason"))),
        _ => None,
    }
}

/// Prints the signal; returns the exit status when it was the last one.
fn tell(domain: &str, news: News, cancelled: bool, as_json: bool) -> Result<Option<u8>, Problem> {
    let (line, end) = match &news {
        News::Progress(done, total) => (progress(domain, *done, *total), None),
        News::Finished(to) => (format!("{domain} runs on {to}\n"), Some(code::FINE)),
        News::Open(reason) => (format!("{domain}: {reason}\n"), None),
        News::Failed(..) if cancelled => (format!("{domain} stays here\n"), Some(code::FINDINGS)),
        News::Failed(_, reason) | News::Twice(reason) if !as_json => {
            return Err(Problem::Cannot(reason.clone()));
        }
        News::Failed(..) | News::Twice(_) => (String::new(), Some(code::CANNOT)),
    };
    if !as_json {
        let newline = end.is_some() && io::stdout().is_terminal();
        out(&format!("{}{line}", if newline { "\n" } else { "" }))?;
        return Ok(end);
    }
    let value = match news {
        News::Progress(done, total) => json!({ "domain": domain, "done": done, "total": total }),
        News::Finished(to) => json!({ "domain": domain, "result": "moved", "to": to }),
        News::Open(reason) => json!({ "domain": domain, "open": reason }),
        News::Failed(kind, reason) => json!({ "domain": domain, "result": kind, "reason": reason }),
        News::Twice(reason) => json!({ "domain": domain, "result": "twice", "reason": reason }),
    };
    out(&format!("{value}\n"))?;
    Ok(end)
}

/// On a terminal one line that changes, elsewhere a line each time.
fn progress(domain: &str, done: u64, total: u64) -> String {
    // Until the disks are there and QEMU runs there, it is not known how much there is.
    let text = match (u128::from(done) * 100).checked_div(u128::from(total)) {
        Some(part) => format!("{domain}: {} of {} copied, {part}%", size(done), size(total)),
        None => format!("{domain}: nothing copied yet"),
    };
    if io::stdout().is_terminal() { format!("\r\x1b[K{text}") } else { format!("{text}\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    type What<'a> = (&'a str, &'a str, &'a str, Vec<&'a str>, &'a str, &'a str, u64);

    #[test]
    fn only_our_move_is_news() {
        let uuid = "00000000-0000-0000-0000-000000000001";
        let what: What<'_> = ("guest", uuid, "vms", vec!["d"], "host1", "host2", 8);
        let signal = |name: &'static str| Message::signal("/org/virtnotify1", INTERFACE, name);
        let going = signal("MoveProgress").build(&(what.clone(), 1u64, 2u64)).unwrap();
        let short = uuid.replace('-', "");
        assert!(matches!(news(&going, &short), Some(News::Progress(1, 2))));
        assert!(news(&going, "00").is_none());
        let twice = signal("RunsTwice").build(&(what.clone(), "look")).unwrap();
        assert!(matches!(news(&twice, &short), Some(News::Twice(why)) if why == "look"));
        let open = signal("MoveFailed").build(&(what.clone(), "open", "silent")).unwrap();
        assert!(matches!(news(&open, &short), Some(News::Open(why)) if why == "silent"));
        let failed = signal("MoveFailed").build(&(what, "stayed", "no room")).unwrap();
        let news = news(&failed, &short);
        assert!(
            matches!(news, Some(News::Failed(kind, why)) if kind == "stayed" && why == "no room")
        );
    }

    #[test]
    fn progress_is_a_line() {
        assert_eq!(progress("g", 1 << 20, 4 << 20), "g: 1.00 MiB of 4.00 MiB copied, 25%\n");
        assert_eq!(progress("g", 0, 0), "g: nothing copied yet\n");
    }
}
