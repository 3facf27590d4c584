// SPDX-License-Identifier: LGPL-2.1-or-later
//! The client's connection upstream over its whole life: made when it is first needed,
//! and made again when the daemon was restarted.
//!
//! A new connection is opened as the client's was, and gets the same identities in the
//! same order, before anything else goes over it. What a connection gathers beyond that
//! (callbacks, streams, whatever unknown calls did) cannot be made again: a client that
//! has such things is *tied*, and ends with its connection, as it would without us.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::JoinHandle;
use virtnotify_wire::connect::{ConnectOpenArgs, ConnectSetIdentityArgs};
use virtnotify_wire::{Frame, Procedure, RemoteError, Status, StorageService};

use crate::client::ClientWriter;
use crate::peer::Peer;
use crate::socket::Message;
use crate::upstream::{Rest, Upstream, UpstreamError};

/// The way upstream of one client.
pub(crate) struct Link {
    path: PathBuf,
    client: Arc<ClientWriter>,
    service: Arc<dyn StorageService>,
    live: Option<(Arc<Upstream>, JoinHandle<()>)>,
    opened: Option<Opened>,
    tied: bool,
}

/// How a further connection upstream is made, for one job of the client's.
#[derive(Clone)]
pub(crate) struct Twin {
    path: PathBuf,
    opened: Opened,
}

impl Twin {
    /// Connects, opens and identifies as the client did.
    pub(crate) async fn connect(&self, rest: Rest) -> Result<Spare, UpstreamError> {
        let (upstream, reader) = Upstream::connect(&self.path).await?;
        let pump = tokio::spawn(Arc::clone(&upstream).pump(reader, rest));
        let spare = Spare { upstream, pump };
        self.opened.again(&spare.upstream).await?;
        Ok(spare)
    }
}

/// A connection that ends when this is dropped.
pub(crate) struct Spare {
    pub(crate) upstream: Arc<Upstream>,
    pump: JoinHandle<()>,
}

impl Drop for Spare {
    fn drop(&mut self) {
        self.pump.abort();
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
    /// It is open and takes the client for root. The connection has to end.
    Unidentified(RemoteError),
}

impl Link {
    pub(crate) fn new(
        path: PathBuf,
        client: Arc<ClientWriter>,
        service: Arc<dyn StorageService>,
    ) -> Self {
        Link { path, client, service, live: None, opened: None, tied: false }
    }

    fn rest(&self) -> Rest {
        Rest::Client(Arc::clone(&self.client), Arc::clone(&self.service))
    }

    /// The connection, as open as the client made it.
    pub(crate) async fn get(&mut self) -> Result<Arc<Upstream>, UpstreamError> {
        if let Some((upstream, pump)) = &self.live
            && (self.tied || !pump.is_finished())
        {
            return Ok(Arc::clone(upstream));
        }
        let (upstream, reader) = Upstream::connect(&self.path).await?;
        let pump = Arc::clone(&upstream).pump(reader, self.rest());
        let pump = tokio::spawn(pump);
        if let Some(opened) = &self.opened
            && let Err(error) = opened.again(&upstream).await
        {
            pump.abort();
            return Err(error);
        }
        self.live = Some((Arc::clone(&upstream), pump));
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
        let reply = match (self.get().await, opening) {
            (Ok(upstream), Ok(opening)) => upstream.relay(opening).await,
            (Err(error), _) => Err(error),
            (_, Err(error)) => Err(error.into()),
        };
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

    async fn identify(&mut self, peer: &Peer) -> Result<ConnectSetIdentityArgs, UpstreamError> {
        let peer = peer.clone();
        let identity = tokio::task::spawn_blocking(move || peer.identity()).await;
        let identity = identity.map_err(std::io::Error::other)?;
        let upstream = self.get().await?;
        upstream.call::<_, ()>(Procedure::ConnectSetIdentity, &identity).await?;
        Ok(identity)
    }

    /// Passes on the identity that a client who may has set.
    pub(crate) async fn set_identity(&mut self, call: Frame) -> Result<Frame, UpstreamError> {
        let reply = self.get().await?.relay(call.clone()).await?;
        if let (Some(opened), Status::Ok) = (&mut self.opened, reply.header.status) {
            opened.set = Some(call);
        }
        Ok(reply)
    }

    /// How to connect once more as this client, if it has opened its connection.
    pub(crate) fn twin(&self) -> Option<Twin> {
        let opened = self.opened.clone()?;
        Some(Twin { path: self.path.clone(), opened })
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
        if let Some((_, pump)) = &self.live {
            pump.abort();
        }
    }
}

impl Opened {
    async fn again(&self, upstream: &Upstream) -> Result<(), UpstreamError> {
        upstream.call::<_, ()>(Procedure::ConnectOpen, &self.args).await?;
        upstream.call::<_, ()>(Procedure::ConnectSetIdentity, &self.own).await?;
        if let Some(call) = &self.set {
            let reply = upstream.relay(call.clone()).await?;
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
    use Procedure as P;
    match frame.known_procedure() {
        Some(
            P::AuthList
            | P::ConnectGetType
            | P::ConnectGetVersion
            | P::ConnectGetCapabilities
            | P::ConnectGetHostname
            | P::ConnectSupportsFeature
            | P::ConnectGetUri
            | P::ConnectIsSecure
            | P::ConnectGetLibVersion,
        ) => false,
        Some(P::StorageVolUpload | P::StorageVolDownload) => true,
        Some(procedure) => !procedure.is_storage(),
        None => frame.header.program != virtnotify_wire::frame::KEEPALIVE_PROGRAM,
    }
}
