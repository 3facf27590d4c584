// SPDX-License-Identifier: LGPL-2.1-or-later
//! Who answers whether a client may do something with an object: polkit, over one connection to the
//! bus for all questions.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;
use virtnotify_polkit::{Answer, Interaction, Subject};

use super::Caller;
use crate::turns::Turns;

/// How long polkit is waited for, as long as libvirt waits.
const ANSWERS: Duration = Duration::from_secs(25);
/// How many questions are under way at once: the bus allows 128 of a connection.
const AT_ONCE: usize = 64;
/// The longest detail that is handed on. Names of ours are much shorter, and the bus would end the
/// connection over a message that is too long.
const DETAIL_MAX: usize = 64 * 1024;

/// One question.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// About whom.
    pub caller: Caller,
    /// What it wants to do: `org.libvirt.api.storage-pool.getattr`.
    pub action: String,
    /// With what, by libvirt's names.
    pub details: Vec<(&'static str, String)>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// polkit, or the bus, refused the question or is not there.
    #[error("{0}")]
    Bus(#[from] zbus::Error),
    /// It is there and says nothing.
    #[error("it has said nothing for {} s", .0.as_secs())]
    Silent(Duration),
    /// The question cannot be put.
    #[error("the bus does not carry a {0} such as the client's")]
    Detail(&'static str),
}

/// An answer that is to come.
pub type Asked<'a> = Pin<Box<dyn Future<Output = Result<bool, Unanswered>> + Send + 'a>>;

/// Answers.
pub trait Authority: fmt::Debug + Send + Sync {
    /// Whether the caller may do that, without a dialog.
    fn ask<'a>(&'a self, question: &'a Question) -> Asked<'a>;
}

/// polkit.
#[derive(Debug)]
pub struct Polkit {
    bus: Mutex<Option<zbus::Connection>>,
    turns: Turns,
}

impl Default for Polkit {
    fn default() -> Self {
        Polkit { bus: Mutex::default(), turns: Turns::new(AT_ONCE) }
    }
}

impl Authority for Polkit {
    fn ask<'a>(&'a self, question: &'a Question) -> Asked<'a> {
        Box::pin(async move {
            let long = question.details.iter().find(|(_, value)| !sendable(value));
            if let Some((name, _)) = long {
                return Err(Unanswered::Detail(name));
            }
            let _turn = self.turns.next(question.caller.uid).await;
            let answer = timeout(ANSWERS, self.answer(question)).await;
            let answer = answer.map_or(Err(Unanswered::Silent(ANSWERS)), |said| Ok(said?));
            if answer.is_err() {
                // The next question tries another connection.
                *self.bus.lock().await = None;
            }
            answer
        })
    }
}

impl Polkit {
    async fn answer(&self, question: &Question) -> zbus::Result<bool> {
        let Caller { uid, pid, start_time } = question.caller;
        let subject = Subject::Process { pid, start_time, uid };
        let details = question.details.iter().map(|(name, value)| (*name, value.as_str()));
        let (bus, action) = (self.bus().await?, &question.action);
        let asked =
            virtnotify_polkit::ask(&bus, subject, action, details.collect(), Interaction::Not);
        Ok(asked.await? == Answer::Yes)
    }

    async fn bus(&self) -> zbus::Result<zbus::Connection> {
        let mut bus = self.bus.lock().await;
        match &*bus {
            Some(bus) => Ok(bus.clone()),
            None => Ok(bus.insert(zbus::Connection::system().await?).clone()),
        }
    }
}

/// Whether the bus takes it as a string.
fn sendable(detail: &str) -> bool {
    detail.len() <= DETAIL_MAX && !detail.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Before anything is asked: a bus takes a message that is not one for a reason to hang up.
    #[tokio::test]
    async fn what_the_bus_does_not_carry_is_not_asked() {
        let caller = Caller { uid: 1000, pid: 1, start_time: 1 };
        for name in ["a\0b".to_owned(), "a".repeat(DETAIL_MAX + 1)] {
            let details = vec![("pool_name", name)];
            let action = "org.libvirt.api.storage-pool.read".to_owned();
            let asked = Polkit::default().ask(&Question { caller, action, details }).await;
            assert!(matches!(asked, Err(Unanswered::Detail("pool_name"))), "{asked:?}");
        }
        for name in ["", "-a", "a\nb", "%s;$(x)", "'\"\\", "\u{202e}ä"] {
            assert!(sendable(name), "{name:?}");
        }
    }
}
