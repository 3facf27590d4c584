// SPDX-License-Identifier: LGPL-2.1-or-later
//! The client's connection upstream over its whole life: made when it is first needed,
//! and made again when the daemon was restarted.
//!
//! A new connection is opened as the client's was, and gets the same identities in the
//! same order, before anything else goes over it. What a connection gathers beyond that
//! (callbacks, streams, whatever unknown calls did) cannot be made again: a client that
//! has such things is *tied*, and ends with its connection, as it would without us.
//!
//! A daemon that does not answer is waited for as long as [`Patience`] says. Where a call can do
//! without it, it is not asked again for a moment.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, timeout};
use virtnotify_wire::connect::{ConnectGetTypeRet, ConnectOpenArgs, ConnectSetIdentityArgs};
use virtnotify_wire::frame::{EncodeError, KEEPALIVE_PROGRAM};
use virtnotify_wire::procedure::Effect;
use virtnotify_wire::{About, Frame, Procedure, RemoteError, Status, StorageService};

use crate::client::ClientWriter;
use crate::config::Patience;
use crate::peer::Peer;
use crate::socket::Message;
use crate::upstream::{Destination, Upstream, UpstreamError};

/// How long a daemon that did not answer is not asked again where a call can do without it.
const PAUSE: Duration = Duration::from_secs(10);

/// The way upstream of one client.
pub(crate) struct Link {
    path: PathBuf,
    patience: Patience,
    /// When upstream last did not answer in time.
    silent: Option<Instant>,
    client: Arc<ClientWriter>,
    service: Arc<dyn StorageService>,
    live: Option<(Arc<Upstream>, JoinHandle<()>)>,
    /// How many connections were made.
    made: u64,
    opened: Option<Opened>,
    tied: bool,
}

/// How a further connection upstream is made, for one job of the client's.
#[derive(Clone)]
pub(crate) struct Reconnect {
    path: PathBuf,
    patience: Patience,
    opened: Opened,
}

impl Reconnect {
    /// Connects, opens and identifies as the client did.
    pub(crate) async fn connect(
        &self,
        destination: Destination,
    ) -> Result<Connected, UpstreamError> {
        let Patience { start, answer, .. } = self.patience;
        let (upstream, reader) = within(start, Upstream::connect(&self.path, answer)).await?;
        let pump = tokio::spawn(Arc::clone(&upstream).pump(reader, destination));
        let connection = Connected { upstream, pump: Some(pump) };
        self.opened.again(&connection.upstream).await?;
        Ok(connection)
    }
}

async fn within<T>(
    time: Duration,
    asked: impl Future<Output = Result<T, UpstreamError>>,
) -> Result<T, UpstreamError> {
    timeout(time, asked).await.unwrap_or(Err(UpstreamError::Silent(time)))
}

/// A connection that ends when this is dropped.
pub(crate) struct Connected {
    pub(crate) upstream: Arc<Upstream>,
    pump: Option<JoinHandle<()>>,
}

impl Connected {
    /// It does not end any more.
    fn keep(mut self) -> Option<JoinHandle<()>> {
        self.pump.take()
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        if let Some(pump) = &self.pump {
            pump.abort();
        }
    }
}

/// What upstream has to be told again.
#[derive(Clone)]
struct Opened {
    args: ConnectOpenArgs,
    /// The client as the kernel saw it.
    own: ConnectSetIdentityArgs,
    /// What root set instead.
    set: Option<Frame>,
}

/// How an attempt to open ended.
pub(crate) enum OpenOutcome {
    /// Upstream is open and knows the client; or it refused to open. Its reply.
    Reply(Frame),
    /// It was not reached.
    Failed(UpstreamError),
    /// It does not answer: the client has our pools alone until it does.
    Alone(UpstreamError),
    /// It is open and takes the client for root. The connection has to end.
    Unidentified(RemoteError),
}

impl Link {
    pub(crate) fn new(
        path: PathBuf,
        patience: Patience,
        client: Arc<ClientWriter>,
        service: Arc<dyn StorageService>,
    ) -> Self {
        let (live, made, opened) = (None, 0, None);
        Link { path, patience, silent: None, client, service, live, made, opened, tied: false }
    }

    fn destination(&self) -> Destination {
        Destination::Client(Arc::clone(&self.client), Arc::clone(&self.service))
    }

    /// Whether there is a connection.
    pub(crate) fn is_up(&self) -> bool {
        self.live.as_ref().is_some_and(|(_, pump)| self.tied || !pump.is_finished())
    }

    /// How many connections there have been: with another one the daemon may be another.
    pub(crate) fn made(&self) -> u64 {
        self.made
    }

    /// The connection, as open as the client made it.
    pub(crate) async fn get(&mut self) -> Result<Arc<Upstream>, UpstreamError> {
        within(self.patience.start, self.connected()).await
    }

    /// The same for a call that can do without it.
    pub(crate) async fn get_soon(&mut self) -> Result<Arc<Upstream>, UpstreamError> {
        let time = self.patience.connect;
        if !self.is_up() && self.silent.is_some_and(|at| at.elapsed() < PAUSE) {
            return Err(UpstreamError::Silent(time));
        }
        let upstream = within(time, self.connected()).await;
        self.silent = matches!(upstream, Err(UpstreamError::Silent(_))).then(Instant::now);
        upstream
    }

    async fn connected(&mut self) -> Result<Arc<Upstream>, UpstreamError> {
        if let Some((upstream, pump)) = &self.live
            && (self.tied || !pump.is_finished())
        {
            return Ok(Arc::clone(upstream));
        }
        let connecting = Upstream::connect(&self.path, self.patience.answer);
        let (upstream, reader) = connecting.await?;
        let pump = Arc::clone(&upstream).pump(reader, self.destination());
        let connection =
            Connected { upstream: Arc::clone(&upstream), pump: Some(tokio::spawn(pump)) };
        if let Some(opened) = &self.opened {
            opened.again(&upstream).await?;
        }
        self.live = connection.keep().map(|pump| (Arc::clone(&upstream), pump));
        self.made += 1;
        Ok(upstream)
    }

    /// Opens upstream for the client and says who it is.
    pub(crate) async fn open(
        &mut self,
        call: &Frame,
        args: ConnectOpenArgs,
        peer: &Peer,
    ) -> OpenOutcome {
        let opening = Frame::call(Procedure::ConnectOpen, call.header.serial, &args);
        let reply = async {
            let opening = opening?;
            self.connected().await?.relay(opening).await
        };
        let reply = reply.await;
        match reply {
            Ok(reply) if reply.header.status == Status::Ok => match self.identify(peer).await {
                Ok(own) => {
                    self.opened = Some(Opened { args, own, set: None });
                    OpenOutcome::Reply(reply)
                }
                Err(error) => OpenOutcome::Unidentified(error.into()),
            },
            Ok(reply) => OpenOutcome::Reply(reply),
            Err(error) => OpenOutcome::Failed(error),
        }
    }

    /// The same for a client that can do without upstream: when that does not answer, it is opened
    /// as soon as a call needs it.
    pub(crate) async fn open_alone(
        &mut self,
        call: &Frame,
        args: ConnectOpenArgs,
        peer: &Peer,
    ) -> OpenOutcome {
        let time = self.patience.connect;
        let opened = timeout(time, self.open(call, args.clone(), peer)).await;
        let error = match opened {
            Ok(OpenOutcome::Failed(error)) => error,
            Ok(outcome) => return outcome,
            Err(_) => UpstreamError::Silent(time),
        };
        self.hang_up();
        match identity(peer).await {
            Ok(own) => {
                self.silent = Some(Instant::now());
                self.opened = Some(Opened { args, own, set: None });
                OpenOutcome::Alone(error)
            }
            Err(error) => OpenOutcome::Unidentified(error.into()),
        }
    }

    /// Forgets that it was opened: the client may open it once more.
    pub(crate) fn close(&mut self) {
        self.hang_up();
        self.opened = None;
    }

    fn hang_up(&mut self) {
        if let Some((_, pump)) = self.live.take() {
            pump.abort();
        }
    }

    async fn identify(&mut self, peer: &Peer) -> Result<ConnectSetIdentityArgs, UpstreamError> {
        let identity = identity(peer).await?;
        let upstream = self.get().await?;
        upstream.call::<_, ()>(Procedure::ConnectSetIdentity, &identity).await?;
        Ok(identity)
    }

    /// What libvirt calls the driver that was opened.
    pub(crate) async fn kind(&mut self) -> Result<String, UpstreamError> {
        let upstream = self.get().await?;
        let answer: ConnectGetTypeRet = upstream.call(Procedure::ConnectGetType, &()).await?;
        Ok(answer.r#type)
    }

    /// Passes on the identity that a client who may has set.
    pub(crate) async fn set_identity(&mut self, call: Frame) -> Result<Frame, UpstreamError> {
        if let (Some(opened), false) = (&mut self.opened, self.live.is_some()) {
            // Told when upstream is there.
            let reply = Frame::reply(&call.header, &[]).map_err(EncodeError::from)?;
            opened.set = Some(call);
            return Ok(reply);
        }
        let reply = self.get().await?.relay_within(call.clone()).await?;
        if let (Some(opened), Status::Ok) = (&mut self.opened, reply.header.status) {
            opened.set = Some(call);
        }
        Ok(reply)
    }

    /// How to connect once more as this client, if it has opened its connection.
    pub(crate) fn reconnect(&self) -> Option<Reconnect> {
        let opened = self.opened.clone()?;
        Some(Reconnect { path: self.path.clone(), patience: self.patience, opened })
    }

    /// Passes a frame on as it is.
    pub(crate) async fn pass(&mut self, message: &Message) -> Result<(), UpstreamError> {
        self.tied |= ties(&message.frame);
        self.get().await?.pass(message).await
    }

    /// From now on the client depends on this very connection.
    pub(crate) fn tie(&mut self) {
        self.tied = true;
    }

    /// Waits until upstream is gone; for ever if it never was there. True if the client
    /// can go on without it.
    pub(crate) async fn lost(&mut self) -> bool {
        match &mut self.live {
            Some((_, pump)) => {
                // However it ended, it has.
                let _ = pump.await;
                self.live = None;
                !self.tied
            }
            None => std::future::pending().await,
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.hang_up();
    }
}

/// Who a client is, in libvirt's words.
async fn identity(peer: &Peer) -> Result<ConnectSetIdentityArgs, UpstreamError> {
    let peer = peer.clone();
    let identity = tokio::task::spawn_blocking(move || peer.identity()).await;
    Ok(identity.map_err(std::io::Error::other)?)
}

impl Opened {
    async fn again(&self, upstream: &Upstream) -> Result<(), UpstreamError> {
        upstream.call::<_, ()>(Procedure::ConnectOpen, &self.args).await?;
        upstream.call::<_, ()>(Procedure::ConnectSetIdentity, &self.own).await?;
        if let Some(call) = &self.set {
            let reply = upstream.relay_within(call.clone()).await?;
            if reply.header.status != Status::Ok {
                return Err(UpstreamError::Refused(reply.decode_error()?));
            }
        }
        Ok(())
    }
}

/// Whether a frame leaves something behind in the connection that carries it. Only of
/// calls that are known not to is it said that they do not.
fn ties(frame: &Frame) -> bool {
    let Some(procedure) = frame.known_procedure() else {
        return frame.header.program != KEEPALIVE_PROGRAM;
    };
    match procedure.about() {
        About::Authentication | About::Connection(Effect::Passing) => false,
        About::Connection(Effect::Lasting) | About::Event | About::Download | About::Upload => true,
        _ => false,
    }
}
