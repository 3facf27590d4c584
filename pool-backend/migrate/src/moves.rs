// SPDX-License-Identifier: LGPL-2.1-or-later
//! What others may know and ask of moves: D-Bus shows them, begins them and cancels them here.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use tokio::sync::{Notify, oneshot, watch};
use uuid::Uuid;
use virtnotify_model::{Bytes, MoveInfo};

use crate::drain::Marker;
use crate::error::MigrateError;
use crate::hypervisor::Progress;
use crate::phase::{At, Phase};
use crate::picture::{OpenMove, Picture};
use crate::preview::Preview;
use crate::verdict::Word;

/// How many may ask for a move before they are answered.
const MOST_ASKED: usize = 64;

/// There is nothing to cancel.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("no VM '{0}' is being moved by this host's daemon")]
pub struct NoMove(String);

/// Why a person's wish for a VM is not fulfilled.
#[derive(Debug, Error)]
#[error("'{vm}' {what}: {reason}")]
pub struct NotMoved {
    vm: String,
    /// What was not done, as the clause after its name.
    what: &'static str,
    reason: Box<MigrateError>,
}

/// A move that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnderWay {
    /// What moves from where to where.
    pub info: MoveInfo,
    /// How far it is; nothing before anything is copied.
    pub progress: Option<Progress>,
    /// Whether it was cancelled.
    pub cancelled: bool,
    /// How far it is: `preparing`, `copying`, `unknown` (both hosts have to be looked at), `staying` (it is here,
    /// and what is there is not known), `resuming` (it is there, and is about to run), `arrived` (what is left here
    /// goes), `stayed` (what it made there goes), `twice` (it ran on both hosts, or a person let it run
    /// there though what is here may be newer: a person has to undefine one) or `abandoned` (a person has to look).
    pub phase: &'static str,
    /// What is in the way of its end, as a sentence; empty while it goes on.
    pub reason: String,
}

/// A question of a person's about a VM, or a wish.
pub(crate) struct Asked {
    /// The VM by name or UUID.
    pub vm: String,
    /// What is to be done.
    pub what: What,
    answer: oneshot::Sender<Result<Answer, NotMoved>>,
}

/// What a person wants of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// Its move to a peer, by name or URI, or to the one that fits best.
    Move(Option<String>),
    /// What its move would be.
    Preview(Option<String>),
    /// Its pin to this host, or the end of that.
    Pin(bool),
    /// The end of a move that does not end by itself.
    Settle(Word),
}

/// What a person is answered.
pub(crate) enum Answer {
    /// The move has begun, or the VM was pinned.
    Done(Uuid),
    /// What a move would be.
    Preview(Preview),
    /// What follows from a person's word, in sentences.
    Settled(String),
}

/// The moves under way. All copies are the same.
#[derive(Clone, Default)]
pub struct Moves(Arc<Shared>);

#[derive(Default)]
struct Shared {
    inner: Mutex<Inner>,
    asked: Notify,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    under_way: BTreeMap<Uuid, UnderWay>,
    picture: Picture,
    /// Whether this host is drained, and the file that says so; without one it is forgotten.
    drained: bool,
    marker: Option<Marker>,
    asked: Vec<Asked>,
    measured: Option<Bytes>,
}

impl Moves {
    /// Whether the host is drained is remembered in the directory of the journal.
    pub(crate) fn kept_in(journal: &Path) -> Self {
        let moves = Self::default();
        let marker = Marker::within(journal);
        let mut inner = moves.inner();
        inner.drained = marker.is_set();
        inner.marker = Some(marker);
        drop(inner);
        moves
    }

    /// Whether this host is being emptied, and takes no VMs.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.inner().drained
    }

    /// Has this host be emptied and take no VMs, or ends that. VMs that left stay where they are.
    ///
    /// # Errors
    /// When that cannot be written down: then nothing changes.
    pub fn drain(&self, drained: bool) -> io::Result<()> {
        let mut inner = self.inner();
        if let Some(marker) = &inner.marker {
            marker.set(drained)?;
        }
        inner.drained = drained;
        drop(inner);
        self.0.asked.notify_one();
        self.tell();
        Ok(())
    }

    /// VMs that wait, moves that are open, and peers.
    #[must_use]
    pub fn picture(&self) -> Picture {
        self.inner().picture.clone()
    }

    /// Shows others this; but for the owner of the moves only tests do.
    #[doc(hidden)]
    pub fn publish(&self, picture: Picture) {
        let mut inner = self.inner();
        if inner.picture != picture {
            inner.picture = picture;
            drop(inner);
            self.tell();
        }
    }

    /// Ends the move of a VM, given by name or UUID: within about a second, unless it has
    /// switched over by then. It stays on this host as it is.
    ///
    /// # Errors
    /// When it is not being moved.
    pub fn cancel(&self, vm: &str) -> Result<(), NoMove> {
        let wanted = Uuid::parse_str(vm).ok();
        let mut inner = self.inner();
        let mut all = inner.under_way.iter_mut();
        let found = all.find(|(uuid, of)| Some(**uuid) == wanted || of.info.domain == vm);
        found.ok_or_else(|| NoMove(shown(vm)))?.1.cancelled = true;
        drop(inner);
        self.tell();
        Ok(())
    }

    /// Asks for the move of a VM, given by name or UUID, to a peer, given by name or URI, or to
    /// the one that fits best. Answers when the move has begun, with the VM's UUID.
    ///
    /// # Errors
    /// When it cannot move, or not now.
    pub async fn ask(&self, vm: &str, to: Option<&str>) -> Result<Uuid, NotMoved> {
        match self.answer(vm, What::Move(to.map(str::to_owned))).await? {
            Answer::Done(uuid) => Ok(uuid),
            Answer::Preview(_) | Answer::Settled(_) => {
                Err(refused(vm, &What::Move(None), MigrateError::Fault))
            }
        }
    }

    /// What the move of a VM would be, given as for [`Moves::ask`], if it began now. Nothing is changed.
    ///
    /// # Errors
    /// When there is no such VM or peer, or libvirt does not answer.
    pub async fn preview(&self, vm: &str, to: Option<&str>) -> Result<Preview, NotMoved> {
        match self.answer(vm, What::Preview(to.map(str::to_owned))).await? {
            Answer::Preview(preview) => Ok(preview),
            Answer::Done(_) | Answer::Settled(_) => {
                Err(refused(vm, &What::Preview(None), MigrateError::Fault))
            }
        }
    }

    /// Ends the move of a VM, given by name or UUID, that does not end by itself, as a person says: nothing is deleted
    /// on either host but the room that was kept. Answers with what follows from that.
    ///
    /// # Errors
    /// When there is no such move, when libvirt is at it, and when the VM is seen to be active on the other host.
    pub async fn settle(&self, vm: &str, word: Word) -> Result<String, NotMoved> {
        match self.answer(vm, What::Settle(word.clone())).await? {
            Answer::Settled(what) => Ok(what),
            Answer::Done(_) | Answer::Preview(_) => {
                Err(refused(vm, &What::Settle(word), MigrateError::Fault))
            }
        }
    }

    /// Writes into the metadata of a VM, given by name or UUID, that it is not to be moved, or that it may be
    /// moved again. Peers that are named there stay named.
    ///
    /// # Errors
    /// When there is no such VM, or its metadata is not understood.
    pub async fn pin(&self, vm: &str, pinned: bool) -> Result<(), NotMoved> {
        self.answer(vm, What::Pin(pinned)).await.map(drop)
    }

    async fn answer(&self, vm: &str, what: What) -> Result<Answer, NotMoved> {
        let (answer, answered) = oneshot::channel();
        {
            let mut inner = self.inner();
            if inner.asked.len() >= MOST_ASKED {
                return Err(refused(vm, &what, MigrateError::TooManyAsk));
            }
            inner.asked.push(Asked { vm: vm.to_owned(), what: what.clone(), answer });
        }
        self.0.asked.notify_one();
        answered.await.unwrap_or_else(|_| Err(refused(vm, &what, MigrateError::Ends)))
    }

    /// The moves that are not over.
    #[must_use]
    pub fn list(&self) -> Vec<UnderWay> {
        let inner = self.inner();
        let mut all = inner.under_way.clone();
        for OpenMove { info, phase, reason, .. } in inner.picture.open.iter().cloned() {
            let (progress, cancelled) = (None, false);
            let open = UnderWay { info, progress, cancelled, phase, reason };
            all.entry(open.info.uuid).or_insert(open);
        }
        all.into_values().collect()
    }

    /// Changes whenever [`Moves::list`] does.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Ready when a person has asked for a move.
    pub(crate) async fn asked(&self) {
        self.0.asked.notified().await;
    }

    /// Who has asked.
    pub(crate) fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.inner().asked)
    }

    /// For tests of those who show moves: pretends that one has begun.
    #[doc(hidden)]
    pub fn pretend(&self, info: &MoveInfo) {
        self.begins(info.uuid, info);
    }

    pub(crate) fn begins(&self, uuid: Uuid, info: &MoveInfo) {
        self.is_at(uuid, info, At::Preparing, "");
    }

    /// A move that is open is looked at.
    pub(crate) fn goes_on_with(&self, info: &MoveInfo, phase: &Phase) {
        self.is_at(info.uuid, info, phase.at, &phase.reason);
    }

    fn is_at(&self, uuid: Uuid, info: &MoveInfo, at: At, reason: &str) {
        let (progress, cancelled, reason) = (None, false, reason.to_owned());
        let new = UnderWay { info: info.clone(), progress, cancelled, phase: at.word(), reason };
        self.inner().under_way.entry(uuid).or_insert(new);
        self.tell();
    }

    pub(crate) fn goes_on(&self, uuid: Uuid, progress: Progress) {
        if let Some(of) = self.inner().under_way.get_mut(&uuid) {
            of.progress = Some(progress);
            of.phase = "copying";
        }
        self.tell();
    }

    pub(crate) fn ended(&self, uuid: Uuid) {
        self.inner().under_way.remove(&uuid);
        self.tell();
    }

    pub(crate) fn is_cancelled(&self, uuid: Uuid) -> bool {
        self.inner().under_way.get(&uuid).is_some_and(|of| of.cancelled)
    }

    /// A move copied so much in a second. Newer ones count for more.
    pub(crate) fn measured(&self, bandwidth: Bytes) {
        let mut inner = self.inner();
        let before = inner.measured.unwrap_or(bandwidth);
        inner.measured = Some(Bytes(before.0 / 2 + bandwidth.0 / 2));
    }

    /// What moves copied in a second lately, if there were any.
    pub(crate) fn bandwidth(&self) -> Option<Bytes> {
        self.inner().measured
    }

    fn tell(&self) {
        self.0.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asked {
    /// Whether it is about this VM.
    pub(crate) fn means(&self, uuid: Uuid, name: &str) -> bool {
        self.vm == name || Uuid::parse_str(&self.vm).is_ok_and(|wanted| wanted == uuid)
    }

    /// Tells how it went; the other end may be gone.
    pub(crate) fn answer(self, answer: Result<Answer, MigrateError>) {
        let refused = |reason| refused(&self.vm, &self.what, reason);
        let _ = self.answer.send(answer.map_err(refused));
    }
}

fn refused(vm: &str, what: &What, reason: MigrateError) -> NotMoved {
    let what = match what {
        What::Move(_) => "is not moved",
        What::Preview(_) => "has no plan",
        What::Pin(true) => "is not pinned",
        What::Pin(false) => "stays pinned",
        What::Settle(_) => "is not settled",
    };
    NotMoved { vm: shown(vm), what, reason: Box::new(reason) }
}

/// What others wrote, for a sentence of ours.
pub(crate) fn shown(vm: &str) -> String {
    vm.chars().take(64).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Stays;
    use crate::wishes::Kept;

    fn info(domain: &str) -> MoveInfo {
        MoveInfo {
            domain: domain.to_owned(),
            uuid: Uuid::from_u128(1),
            pool: "vms".parse().unwrap(),
            volumes: Vec::new(),
            from: String::new(),
            to: String::new(),
            allocation: Bytes::ZERO,
        }
    }

    #[test]
    fn only_what_moves_can_be_cancelled() {
        let (moves, vm) = (Moves::default(), Uuid::from_u128(1));
        let changes = moves.changes();
        moves.begins(vm, &info("guest"));
        assert!(!moves.is_cancelled(vm) && changes.has_changed().unwrap());
        assert_eq!(moves.cancel("a\n").unwrap_err(), NoMove("a\\n".into()));
        moves.cancel("guest").unwrap();
        assert!(moves.is_cancelled(vm));
        moves.ended(vm);
        moves.begins(vm, &info("guest"));
        assert!(!moves.is_cancelled(vm), "the next move is another one");
        moves.cancel(&vm.to_string()).unwrap();
        assert!(moves.is_cancelled(vm));
        moves.ended(vm);
        assert!(moves.cancel("guest").is_err() && moves.list().is_empty());
    }

    #[test]
    fn one_that_is_looked_at_again_is_shown_where_it_is() {
        let (moves, mut phase) = (Moves::default(), Phase::new());
        phase.enter(At::Staying, Some("why".into()));
        moves.goes_on_with(&info("guest"), &phase);
        let shown = moves.list().remove(0);
        assert_eq!((shown.phase, shown.reason.as_str()), ("staying", "why"));
    }

    #[tokio::test]
    async fn who_asks_is_answered() {
        let moves = Moves::default();
        let asked = moves.clone();
        let asks = tokio::spawn(async move { asked.ask("guest", Some("host2")).await });
        moves.asked().await;
        let asked = moves.take_asked().remove(0);
        assert!(asked.means(Uuid::nil(), "guest") && !asked.means(Uuid::nil(), "other"));
        assert_eq!(asked.what, What::Move(Some("host2".to_owned())));
        asked.answer(Err(Stays::Kept(Kept::Pinned).into()));
        let refused = asks.await.unwrap().unwrap_err();
        assert_eq!(
            refused.to_string(),
            "'guest' is not moved: its <metadata> says that it is not to be moved"
        );
    }

    #[test]
    fn bandwidths_are_averaged() {
        let moves = Moves::default();
        assert_eq!(moves.bandwidth(), None);
        moves.measured(Bytes(100));
        moves.measured(Bytes(200));
        assert_eq!(moves.bandwidth(), Some(Bytes(150)));
    }
}
