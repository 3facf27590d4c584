// SPDX-License-Identifier: LGPL-2.1-or-later
//! `top`: the status, drawn again whenever something changes.
//!
//! Nothing is asked while nothing happens, except the rates, which fade by themselves. On a
//! terminal the screen is drawn over; elsewhere, and on one that cannot do that, each look follows
//! the last.

use std::io::{self, IsTerminal as _, Read as _};
use std::time::Duration;

use futures_util::StreamExt as _;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use zbus::message::Type;
use zbus::{MatchRule, MessageStream};

use crate::args::code;
use crate::client::{self, Host, NAME, Problem};
use crate::objects;
use crate::show::out;
use crate::status::{to_json, to_text};

/// The shortest time between two drawings.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest time between two drawings: rates fade.
const FADE: Duration = Duration::from_secs(5);
/// Moves to the first place of the screen, and clears to its end.
const HOME: &str = "\x1b[H\x1b[J";

/// Whether to look again.
enum Wake {
    Look,
    End,
    Closed,
}

/// `top`.
pub async fn run(host: Host<'_>, count: Option<u64>, as_json: bool) -> Result<u8, Problem> {
    let daemon = client::daemon(host).await?;
    let connection = daemon.inner().connection();
    let rule = MatchRule::builder().msg_type(Type::Signal).sender(NAME).build()?;
    let mut signals = MessageStream::for_match_rule(rule, connection, None).await?;
    let (news, mut told) = watch::channel(());
    // Taken all the time: a full queue would hold up the answers as well.
    tokio::spawn(async move {
        while signals.next().await.is_some() {
            news.send_replace(());
        }
    });
    let screen = io::stdout().is_terminal() && std::env::var("TERM").is_ok_and(|t| t != "dumb");
    // Keys that are pressed while it looks count as well.
    let mut interrupts = client::interrupts()?;
    let (_keys_back, mut keys) = keys(screen);
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        let mut all = objects::look(connection).await?;
        for pool in &mut all.pools {
            objects::ask_written(connection, pool).await?;
        }
        let (head, foot) = if screen { (HOME, "\nq ends\n") } else { ("", "\n") };
        out(&match as_json {
            true => format!("{}\n", to_json(&all)),
            false => format!("{head}{}{foot}", to_text(&all)),
        })?;
        left -= 1;
        if left == 0 {
            break;
        }
        let drawn = Instant::now();
        let woken = tokio::select! {
            changed = timeout(FADE, told.changed()) => match changed {
                Ok(Err(_)) => Wake::Closed,
                Ok(Ok(())) | Err(_) => Wake::Look,
            },
            () = ended(&mut keys, &mut interrupts) => Wake::End,
        };
        match woken {
            Wake::Look => sleep_until(drawn + PAUSE).await,
            Wake::End => break,
            Wake::Closed => {
                return Err(Problem::Cannot("the bus has closed the connection".into()));
            }
        }
        // Events that came meanwhile are in the next look.
        told.mark_unchanged();
    }
    Ok(code::FINE)
}

/// Restores the terminal when it is dropped.
struct Restore(Option<Termios>);

impl Drop for Restore {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Reads keys one by one, where there is a terminal and it is drawn on: elsewhere a program that reads the
/// output may end this one before the terminal is restored.
fn keys(screen: bool) -> (Restore, mpsc::UnboundedReceiver<u8>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let terminal = tcgetattr(io::stdin()).ok().filter(|_| screen);
    let Some(before) = terminal else { return (Restore(None), receiver) };
    let mut now = before.clone();
    now.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
    if tcsetattr(io::stdin(), OptionalActions::Now, &now).is_err() {
        return (Restore(None), receiver);
    }
    // It ends with the program.
    std::thread::spawn(move || {
        for key in io::stdin().lock().bytes().map_while(Result::ok) {
            if sender.send(key).is_err() {
                break;
            }
        }
    });
    (Restore(Some(before)), receiver)
}

/// Ready when the user wants to end.
async fn ended(keys: &mut mpsc::UnboundedReceiver<u8>, interrupts: &mut Signal) {
    let pressed = async {
        loop {
            match keys.recv().await {
                Some(b'q' | b'Q') => return,
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    };
    tokio::select! {
        () = pressed => {}
        _ = interrupts.recv() => {}
    }
}
