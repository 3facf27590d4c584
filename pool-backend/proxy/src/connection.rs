// SPDX-License-Identifier: LGPL-2.1-or-later
//! One client, from accept to close.
//!
//! ```text
//! Anonymous --AUTH_POLKIT, or nothing to prove--> Authenticated --CONNECT_OPEN--> Open
//! ```
//!
//! This task alone reads from the client and decides what becomes of each frame; what
//! takes time (our driver, a question to upstream) is a [`crate::job::Job`] of its
//! own, as many at once as libvirt allows a client. While no further job may start, or
//! upstream has no room, nothing is read: a client that asks too much stalls itself.
//! Another task carries upstream's frames to the client.
//!
//! While it waits for upstream, a client that hangs up is noticed. Keep-alives of the client are
//! answered here: whether upstream answers says nothing about us.
//!
//! Nothing goes upstream before the client is authenticated. Right after the client's
//! open comes the client's identity; nothing else of the client goes in between.
//!
//! The connection ends when the client ends it, when a frame is malformed, when the
//! identity cannot be handed on, or with upstream if the client depends on that very
//! connection (see [`Link`]). Calls that upstream took and never answered are answered
//! by an error.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, JoinSet};
use virtnotify_wire::connect::{
    AuthListRet, AuthPolkitRet, AuthType, CONNECT_RO, ConnectOpenArgs, ConnectSetIdentityArgs,
    ConnectSupportsFeatureArgs, ConnectSupportsFeatureRet,
};
use virtnotify_wire::frame::{KEEPALIVE_PROGRAM, PROTOCOL_VERSION, REMOTE_PROGRAM};
use virtnotify_wire::procedure::allowed_read_only;
use virtnotify_wire::{
    About, ErrorCode, ErrorDomain, Frame, Header, List, MessageType, PoolView, Procedure,
    RemoteError, Session, Status, decode, encode,
};

use crate::access::{Caller, Guard};
use crate::auth;
use crate::changes;
use crate::client::ClientWriter;
use crate::config::{Access, Side};
use crate::events::{self, Registrations};
use crate::handles;
use crate::installer::runs_installer;
use crate::job::{Hold, Job};
use crate::link::{Link, OpenOutcome};
use crate::memory::Taken;
use crate::peer::Peer;
use crate::places::Seat;
use crate::rarely::Rarely;
use crate::readonly;
use crate::route::{Route, route};
use crate::server::Shared;
use crate::socket::{Descriptors, FrameReader, Limits, Message, ReadError};
use crate::streams::Streams;
use crate::threads::Threads;
use crate::upstream::{PRIVATE_SERIALS, UpstreamError};
use crate::volume_lookup::VolumeLookup;

/// The longest frame of a client that has not authenticated yet. Every user may connect, and the memory of this
/// process is locked.
const STRANGER_FRAME_MAX: usize = 4096;
/// The longest frame of a client of the read-only socket.
const READ_ONLY_FRAME_MAX: usize = 256 * 1024;

/// How often it is looked whether libvirt asks about each object by now, while a stream of ours goes on and there is no
/// connection upstream whose end would tell.
const LOOK: Duration = Duration::from_secs(2);

const KEEPALIVE_PING: i32 = 1;
const KEEPALIVE_PONG: i32 = 2;

/// Why a connection ends that neither side closed.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The client can no longer be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The client can no longer be written to.
    #[error("the client cannot be written to: {0}")]
    Write(#[from] std::io::Error),
    /// The client numbers its calls as we number ours.
    #[error("a call's serial {0:#x} is in the range that is not the client's")]
    Serial(u32),
    /// Upstream would take the client for root.
    #[error("the client's identity could not be handed on: {0}")]
    Identity(RemoteError),
    /// The client did not authenticate.
    #[error("the client did not authenticate in time")]
    Silent,
    /// The client came before libvirt asked about each object.
    #[error("libvirt asks polkit about each object now: the client has to connect again")]
    Unguarded,
}

/// The places of a client that has not authenticated: among those of its user, and of all.
pub(crate) type Anonymous = (Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>);

/// What a connection knows of its client.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    access: Access,
    peer: Peer,
    session: Session,
    client: Arc<ClientWriter>,
    authenticated: bool,
    /// Given back when the client has authenticated.
    anonymous: Anonymous,
    /// Whether `CONNECT_OPEN` succeeded, and with a URI that shows our pools.
    open: bool,
    lookup: VolumeLookup,
    /// For whom the calls are made, if that is known.
    caller: Option<Caller>,
    /// The same in words.
    who: Arc<str>,
    /// Where libvirt asks about each object.
    guard: Option<Arc<Guard>>,
    /// The connection upstream, by its number, with which libvirt was last seen not to ask.
    unguarded: u64,
    link: Link,
    jobs: JoinSet<()>,
    room: Arc<Semaphore>,
    seat: Arc<Seat>,
    /// The memory of the frame that is looked at, until something else has it.
    taken: Option<Taken>,
    registrations: Arc<Registrations>,
    delivery: Option<JoinHandle<()>>,
    streams: Streams,
}

impl Connection {
    pub(crate) fn new(
        shared: Arc<Shared>,
        access: Access,
        peer: Peer,
        id: u64,
        client: Arc<ClientWriter>,
        anonymous: Anonymous,
        seat: Arc<Seat>,
    ) -> Self {
        let read_only = access == Access::ReadOnly;
        let session = Session { id, uid: peer.uid, gid: peer.gid, pid: peer.pid, read_only };
        let room = Arc::new(Semaphore::new(shared.config.max_client_requests.max(1)));
        let authenticated =
            auth::required(shared.config.side(access).auth, &peer) == AuthType::None;
        Connection {
            lookup: VolumeLookup::new(peer.program.as_deref()),
            caller: Caller::of_peer(&peer),
            who: changes::who(&peer).into(),
            guard: None,
            unguarded: 0,
            anonymous: if authenticated { (None, None) } else { anonymous },
            link: Link::new(
                shared.config.side(access).upstream.clone(),
                shared.config.upstream,
                Arc::clone(&client),
                Arc::clone(&shared.service),
            ),
            shared,
            access,
            peer,
            session,
            client,
            authenticated,
            open: false,
            jobs: JoinSet::new(),
            room,
            seat,
            taken: None,
            registrations: Arc::default(),
            delivery: None,
            streams: Streams::default(),
        }
    }

    /// Serves the client until the end.
    pub(crate) async fn run(mut self, mut reader: FrameReader) {
        let client = self.session.to_string();
        tracing::debug!(client, "connected");
        match self.serve(&mut reader).await {
            Ok(()) => tracing::debug!(client, "disconnected"),
            Err(reason @ (End::Write(_) | End::Unguarded)) => {
                tracing::debug!(client, %reason, "disconnected");
            }
            Err(reason) => {
                if let Some(left_out) = self.line_of(&self.shared.rarely.closed) {
                    tracing::warn!(client, left_out, %reason, "connection closed");
                }
            }
        }
        if let Some(delivery) = self.delivery.take() {
            delivery.abort();
        }
    }

    /// Whether something is worth a line that a client can bring about as often as it likes: the journal would drop
    /// others of ours with too many, such as who has changed what.
    fn line_of(&self, rarely: &Rarely) -> Option<u64> {
        if self.session.uid == 0 { Some(0) } else { rarely.now() }
    }

    async fn serve(&mut self, reader: &mut FrameReader) -> Result<(), End> {
        let deadline = tokio::time::sleep(self.shared.config.auth_timeout);
        tokio::pin!(deadline);
        let mut look = tokio::time::interval(LOOK);
        loop {
            reader.limit(self.limits());
            tokio::select! {
                message = reader.read() => match message? {
                    Some(message) => {
                        self.taken = reader.taken();
                        tokio::select! {
                            biased;
                            done = self.frame(message) => done?,
                            () = reader.hung_up() => return Ok(()),
                        }
                        self.taken = None;
                    }
                    None => return Ok(()),
                },
                _ = look.tick(), if self.streams_alone() => self.still_unguarded().await?,
                goes_on = self.link.lost() => {
                    if !goes_on {
                        self.finish_jobs().await;
                        return Ok(());
                    }
                    self.still_unguarded().await?;
                }
                () = &mut deadline, if !self.authenticated => return Err(End::Silent),
            }
            while self.jobs.try_join_next().is_some() {}
        }
    }

    /// What the client may send: who may change nothing may also not cost much.
    fn limits(&self) -> Limits {
        let within = Some(self.shared.config.frame_timeout);
        let longest = match self.access {
            _ if !self.authenticated => STRANGER_FRAME_MAX,
            Access::ReadOnly if !self.peer.is_root() => READ_ONLY_FRAME_MAX,
            _ => return Limits { descriptors: Descriptors::Unknown, ..Limits::default() },
        };
        Limits { longest, descriptors: Descriptors::None, within }
    }

    /// Upstream is gone: what was begun still gets its answer.
    async fn finish_jobs(&mut self) {
        self.streams.clear();
        while self.jobs.join_next().await.is_some() {}
    }

    async fn frame(&mut self, message: Message) -> Result<(), End> {
        let header = message.frame.header;
        match header.kind {
            _ if header.program == KEEPALIVE_PROGRAM => self.keepalive(message).await,
            MessageType::Call | MessageType::CallWithFds => self.call(message).await,
            MessageType::Stream | MessageType::StreamHole if self.streams.takes(&header) => {
                let taken = self.taken.take();
                Ok(self.streams.feed(message.frame, taken, &self.client).await?)
            }
            _ if self.authenticated => self.pass(message).await,
            // Nothing that a stranger may send.
            _ => Ok(()),
        }
    }

    async fn keepalive(&mut self, message: Message) -> Result<(), End> {
        let header = message.frame.header;
        match header.procedure {
            KEEPALIVE_PING => {
                let pong = Header { procedure: KEEPALIVE_PONG, ..header };
                let frame = Frame::new(pong, &[]).map_err(std::io::Error::other)?;
                Ok(self.client.send(&frame.into()).await?)
            }
            // An answer to upstream, if that is still there to ask.
            _ if self.authenticated && self.link.is_up() => self.pass(message).await,
            _ => Ok(()),
        }
    }

    async fn call(&mut self, message: Message) -> Result<(), End> {
        let header = message.frame.header;
        if header.serial >= PRIVATE_SERIALS {
            return Err(End::Serial(header.serial));
        }
        if let Err(error) = self.may(&header) {
            return self.answer(&header, Err(error)).await;
        }
        let procedure = header.known_procedure();
        let translated = self.lookup.observe(procedure, &message.frame.payload());
        match procedure {
            Some(Procedure::AuthList) => self.auth_list(&header).await,
            Some(Procedure::AuthPolkit) => self.auth_polkit(&header).await,
            Some(procedure) if procedure.about() == About::Authentication => {
                let detail = "client tried invalid SASL init request";
                let error = RemoteError::of(ErrorDomain::AUTH, ErrorCode::AUTH_FAILED, detail);
                self.answer(&header, Err(error)).await
            }
            Some(Procedure::ConnectOpen) => self.open(message.frame).await,
            Some(Procedure::ConnectSetIdentity) => self.set_identity(message.frame).await,
            Some(Procedure::ConnectClose) if self.open && !self.link.is_up() => {
                self.answer(&header, Ok(Vec::new())).await
            }
            Some(Procedure::ConnectSupportsFeature) if self.open && !self.link.is_up() => {
                self.supports_feature(message).await
            }
            Some(procedure) if self.open && procedure.is_storage() => {
                let view = self.view(procedure, translated).await;
                self.storage(procedure, message, view).await
            }
            _ => self.pass(message).await,
        }
    }

    /// As what the client is to see a pool of ours.
    async fn view(&self, procedure: Procedure, translated: bool) -> PoolView {
        // Only whom the host trusts may have us look at their memory.
        let asks = procedure == Procedure::StoragePoolGetXmlDesc && !self.session.read_only;
        if translated {
            PoolView::Logical
        } else if asks && self.is_installer().await {
            PoolView::Zfs
        } else {
            PoolView::Own
        }
    }

    async fn is_installer(&self) -> bool {
        match self.caller {
            Some(caller) => runs_installer(caller, &self.threads()).await,
            None => false,
        }
    }

    /// What may block is done in the turns of the user for whom it is done: libvirt's daemons come as root for all.
    fn threads(&self) -> Threads {
        let uid = self.caller.map_or(self.session.uid, |caller| caller.uid);
        Threads::new(&self.shared.driver, uid)
    }

    /// Whether the client may make that call at all, on either daemon.
    fn may(&self, header: &Header) -> Result<(), RemoteError> {
        let remote = header.program == REMOTE_PROGRAM && header.version == PROTOCOL_VERSION;
        let known = header.known_procedure();
        let authenticates = known.is_some_and(|known| known.about() == About::Authentication);
        if !self.authenticated && !authenticates {
            let (rpc, detail) = (ErrorDomain::RPC, "authentication required");
            return Err(RemoteError::of(rpc, ErrorCode::RPC, detail));
        }
        if self.session.read_only && !(remote && allowed_read_only(header.procedure)) {
            return Err(readonly::refusal(header));
        }
        Ok(())
    }

    async fn answer(&self, call: &Header, answer: Result<Vec<u8>, RemoteError>) -> Result<(), End> {
        Ok(self.client.answer(call, answer).await?)
    }

    fn side(&self) -> &Side {
        self.shared.config.side(self.access)
    }

    async fn auth_list(&mut self, header: &Header) -> Result<(), End> {
        let required = if self.authenticated {
            AuthType::None
        } else {
            auth::required(self.side().auth, &self.peer)
        };
        let types = List(vec![required]);
        self.answer(header, encode(&AuthListRet { types }).map_err(Into::into)).await
    }

    async fn auth_polkit(&mut self, header: &Header) -> Result<(), End> {
        let answer = if self.authenticated {
            let detail = "client tried invalid PolicyKit init request";
            Err(RemoteError::of(ErrorDomain::AUTH, ErrorCode::AUTH_FAILED, detail))
        } else {
            auth::check_polkit(&self.peer, self.access).await
        };
        match &answer {
            Ok(()) => {
                self.authenticated = true;
                self.anonymous = (None, None);
            }
            Err(error) => {
                if let Some(left_out) = self.line_of(&self.shared.rarely.refused) {
                    tracing::info!(client = %self.session, left_out, %error, "not authenticated");
                }
            }
        }
        let result = encode(&AuthPolkitRet { complete: 1 }).map_err(RemoteError::from);
        self.answer(header, answer.and(result)).await
    }

    async fn pass(&mut self, message: Message) -> Result<(), End> {
        let header = message.frame.header;
        match self.link.pass(&message).await {
            Err(error) if matches!(header.kind, MessageType::Call | MessageType::CallWithFds) => {
                self.fail(&header, error).await
            }
            _ => Ok(()),
        }
    }

    async fn fail(&self, call: &Header, error: UpstreamError) -> Result<(), End> {
        if let Some(left_out) = self.line_of(&self.shared.rarely.unasked) {
            tracing::warn!(client = %self.session, left_out, %error, "upstream could not be asked");
        }
        self.answer(call, Err(error.into())).await
    }

    async fn open(&mut self, frame: Frame) -> Result<(), End> {
        let header = frame.header;
        let mut args: ConnectOpenArgs = match decode(&frame.payload()) {
            Ok(args) => args,
            Err(error) => return self.answer(&header, Err(error.into())).await,
        };
        if self.session.read_only {
            args.flags |= CONNECT_RO;
        }
        let (read_only, ours) =
            (args.flags & CONNECT_RO != 0, shows_our_pools(args.name.as_deref()));
        let alone = ours && args.name.as_deref().is_some_and(|uri| uri.starts_with("storage:"));
        let opened = match alone {
            true => self.link.open_alone(&frame, args, &self.peer).await,
            false => self.link.open(&frame, args, &self.peer).await,
        };
        match opened {
            OpenOutcome::Alone(error) => {
                if let Some(left_out) = self.line_of(&self.shared.rarely.unasked) {
                    let client = &self.session;
                    tracing::warn!(%client, left_out, %error, "our pools alone are there");
                }
                if let Err(denied) = self.watch(Some("storage")).await {
                    return self.answer(&header, Err(denied)).await;
                }
                self.session.read_only = read_only;
                self.open = true;
                self.answer(&header, Ok(Vec::new())).await
            }
            OpenOutcome::Reply(reply) => {
                if reply.header.status == Status::Ok {
                    if let Err(denied) = self.watch(None).await {
                        return self.answer(&header, Err(denied)).await;
                    }
                    self.session.read_only = read_only;
                    self.open = ours;
                }
                Ok(self.client.send(&reply.into()).await?)
            }
            OpenOutcome::Failed(error) => self.fail(&header, error).await,
            OpenOutcome::Unidentified(error) => {
                self.answer(&header, Err(error.clone())).await?;
                Err(End::Identity(error))
            }
        }
    }

    /// Where libvirt asks about each object, asks whether the client may open its connection: upstream
    /// was opened by us, and cannot know. `kind` is the driver's, if upstream cannot be asked for it.
    async fn watch(&mut self, kind: Option<&str>) -> Result<(), RemoteError> {
        let watched = self.guarded(kind).await;
        if watched.is_err() {
            self.link.close();
            self.open = false;
        }
        self.guard = watched?.map(Arc::new);
        Ok(())
    }

    async fn asks(&self) -> bool {
        let access = Arc::clone(&self.shared.access);
        tokio::task::spawn_blocking(move || access.asks()).await.unwrap_or(true)
    }

    /// Whether something that was begun unasked goes on without a connection upstream.
    fn streams_alone(&mut self) -> bool {
        self.open && self.guard.is_none() && !self.link.is_up() && self.streams.any()
    }

    /// Ends a client that came before libvirt asked about each object, as a daemon that is started anew with that ends its
    /// own. The configuration may be another as soon as the daemon is not there, and with each connection made since.
    async fn still_unguarded(&mut self) -> Result<(), End> {
        let made = self.link.made();
        let seen = self.link.is_up() && made == self.unguarded;
        if !self.open || self.guard.is_some() || seen {
            return Ok(());
        }
        self.unguarded = made;
        if self.asks().await {
            self.finish_jobs().await;
            return Err(End::Unguarded);
        }
        Ok(())
    }

    async fn guarded(&mut self, kind: Option<&str>) -> Result<Option<Guard>, RemoteError> {
        self.unguarded = self.link.made();
        if !self.asks().await {
            return Ok(None);
        }
        let kind = match kind {
            Some(kind) => kind.to_owned(),
            None => self.link.kind().await?,
        };
        let guard = Guard::new(Arc::clone(&self.shared.access), &kind, self.caller);
        guard.opens(Procedure::ConnectOpen.permissions()).await?;
        Ok(Some(guard))
    }

    /// Answers which features the protocol has while upstream cannot be asked: all of libvirt's daemons give the same
    /// answer. Only that they tell of their connection's end is not promised for them.
    async fn supports_feature(&mut self, message: Message) -> Result<(), End> {
        const FD_PASSING: i32 = 8;
        const TYPED_PARAM_STRING: i32 = 9;
        const PROGRAM_KEEPALIVE: i32 = 10;
        const REMOTE_EVENT_CALLBACK: i32 = 14;
        const REMOTE_CLOSE_CALLBACK: i32 = 15;
        let args = decode::<ConnectSupportsFeatureArgs>(&message.frame.payload());
        let supported = match args.map(|args| args.feature) {
            Ok(FD_PASSING | TYPED_PARAM_STRING | PROGRAM_KEEPALIVE | REMOTE_EVENT_CALLBACK) => 1,
            Ok(REMOTE_CLOSE_CALLBACK) => 0,
            _ => return self.pass(message).await,
        };
        let answer = encode(&ConnectSupportsFeatureRet { supported }).map_err(Into::into);
        self.answer(&message.frame.header, answer).await
    }

    async fn set_identity(&mut self, frame: Frame) -> Result<(), End> {
        let header = frame.header;
        if !self.peer.is_root() {
            let detail = "only root may act for another user";
            let error = RemoteError::new(ErrorCode::ACCESS_DENIED, detail);
            return self.answer(&header, Err(error)).await;
        }
        let identity: Option<ConnectSetIdentityArgs> = decode(&frame.payload()).ok();
        let caller = identity.as_ref().and_then(Caller::of_identity);
        let who = identity.map(|identity| changes::behalf(&identity, &self.peer));
        match self.link.set_identity(frame).await {
            Ok(reply) => {
                if reply.header.status == Status::Ok {
                    self.caller = caller;
                    if let Some(guard) = &self.guard {
                        guard.set_caller(caller);
                    }
                }
                if let (Some(who), Status::Ok) = (who, reply.header.status) {
                    self.who = who.into();
                }
                Ok(self.client.send(&reply.into()).await?)
            }
            Err(error) => self.fail(&header, error).await,
        }
    }

    async fn storage(
        &mut self,
        procedure: Procedure,
        message: Message,
        view: PoolView,
    ) -> Result<(), End> {
        let header = message.frame.header;
        let route = route(procedure, &message.frame.payload(), &*self.shared.service);
        match route {
            Route::Upstream => return self.pass(message).await,
            Route::Refuse(error) => return self.answer(&header, Err(error)).await,
            _ => {}
        }
        let call = match handles::settled(procedure, message.frame, &*self.shared.service) {
            Ok(call) => call,
            Err(error) => return self.answer(&header, Err(error)).await,
        };
        let room = Arc::clone(&self.room).acquire_owned().await;
        let upstream = match route {
            Route::Ours | Route::Download | Route::Upload | Route::CloneIn | Route::CloneOut => {
                Err(UpstreamError::Lost)
            }
            Route::OursFirst(_) | Route::Both | Route::DefineOurs(_) => self.link.get_soon().await,
            _ => self.link.get().await,
        };
        self.still_unguarded().await?;
        if route == Route::Register && upstream.is_ok() {
            self.link.tie();
            self.start_delivery();
        }
        let job = Job {
            shared: Arc::clone(&self.shared),
            session: self.session.clone(),
            who: Arc::clone(&self.who),
            client: Arc::clone(&self.client),
            upstream: upstream.map_err(Into::into),
            reconnect: self.link.reconnect(),
            registrations: Arc::clone(&self.registrations),
            guard: self.guard.clone(),
            procedure,
            call,
            view,
            hold: Arc::new(Hold::new(room.ok(), self.taken.take(), Arc::clone(&self.seat))),
            threads: self.threads(),
        };
        match route {
            Route::Download | Route::Upload => {
                match self.streams.open(&header) {
                    Ok(input) => self.jobs.spawn(job.stream(route, input)),
                    Err(error) => return self.answer(&header, Err(error)).await,
                };
            }
            route => {
                self.jobs.spawn(job.run(route));
            }
        }
        Ok(())
    }

    fn start_delivery(&mut self) {
        if self.delivery.is_some() {
            return;
        }
        let events = self.shared.events.subscribe();
        let registrations = Arc::clone(&self.registrations);
        let (client, guard) = (Arc::clone(&self.client), self.guard.clone());
        let delivery = events::deliver(events, registrations, client, guard);
        self.delivery = Some(tokio::spawn(delivery));
    }
}

/// Whether our pools belong to the connection that a client opened. They are the
/// host's, so the drivers that have no host (`test`, remote hypervisors) do not show
/// them. Without a URI the daemon picks its own driver.
fn shows_our_pools(uri: Option<&str>) -> bool {
    const DRIVERS: [&str; 7] = ["storage", "qemu", "xen", "lxc", "ch", "bhyve", "vz"];
    let Some((driver, rest)) = uri.unwrap_or_default().split_once("://") else {
        return uri.unwrap_or_default().is_empty();
    };
    let path = rest.find('/').map_or("", |slash| &rest[slash..]);
    let path = path.split(['?', '#']).next().unwrap_or_default();
    DRIVERS.contains(&driver) && matches!(path, "/system" | "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_pools_are_the_hosts() {
        for uri in [None, Some(""), Some("storage:///system"), Some("qemu:///system?mode=direct")] {
            assert!(shows_our_pools(uri), "{uri:?}");
        }
        for uri in ["test:///default", "qemu:///session", "esx://host/system", "storage"] {
            assert!(!shows_our_pools(Some(uri)), "{uri}");
        }
    }
}
