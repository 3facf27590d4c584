// SPDX-License-Identifier: LGPL-2.1-or-later
//! One call that takes time, and its answer.

use std::io;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use virtnotify_wire::storage::{
    ConnectStoragePoolEventDeregisterAnyArgs, ConnectStoragePoolEventRegisterAnyRet,
    StoragePoolDefineXmlRet, StoragePoolDestroyArgs, StoragePoolLookupByNameArgs,
    StoragePoolLookupByNameRet, StoragePoolLookupByUuidArgs, StoragePoolLookupByUuidRet,
    StoragePoolUndefineArgs,
};
use virtnotify_wire::{
    Call, ErrorCode, Frame, PoolView, Procedure, RemoteError, Session, Status, StoragePool,
    StorageService, decode,
};

use crate::access::Guard;
use crate::changes;
use crate::client::ClientWriter;
use crate::clone::{self, Parties};
use crate::events::Registrations;
use crate::link::Reconnect;
use crate::memory::Taken;
use crate::merge::merge;
use crate::places::Seat;
use crate::route::{PoolNames, Route, already_exists, conflict};
use crate::server::Shared;
use crate::streams::{self, Incoming};
use crate::threads::Threads;
use crate::upstream::{Upstream, UpstreamError};

/// A call and all that answering it needs.
pub(crate) struct Job {
    pub(crate) shared: Arc<Shared>,
    pub(crate) session: Session,
    /// For whom it is made, in words.
    pub(crate) who: Arc<str>,
    pub(crate) client: Arc<ClientWriter>,
    /// Not there for calls that are the driver's alone, and where it does not answer.
    pub(crate) upstream: Result<Arc<Upstream>, RemoteError>,
    /// For calls that need a connection upstream of their own.
    pub(crate) reconnect: Option<Reconnect>,
    pub(crate) registrations: Arc<Registrations>,
    /// Where libvirt asks about each object.
    pub(crate) guard: Option<Arc<Guard>>,
    pub(crate) procedure: Procedure,
    pub(crate) call: Frame,
    pub(crate) view: PoolView,
    pub(crate) hold: Arc<Hold>,
    pub(crate) threads: Threads,
}

/// The client's room for one more call, and its place among the clients. Free again when nothing runs for the call any
/// more: a thread that blocks goes on when the client has hung up, and one that comes again and again would have any number
/// of them.
pub(crate) struct Hold {
    _room: Option<OwnedSemaphorePermit>,
    /// The memory that the call's frame takes.
    _taken: Option<Taken>,
    seat: Arc<Seat>,
}

impl Hold {
    pub(crate) fn new(
        room: Option<OwnedSemaphorePermit>,
        taken: Option<Taken>,
        seat: Arc<Seat>,
    ) -> Self {
        Self { _room: room, _taken: taken, seat }
    }

    /// A stream that has begun is no call any more.
    fn of_a_stream(&self) -> Arc<Self> {
        Arc::new(Self::new(None, None, Arc::clone(&self.seat)))
    }
}

/// What a job ends with: a result or error of ours, or a reply of upstream's.
enum Answer {
    Ours(Result<Vec<u8>, RemoteError>),
    Upstream(Frame),
}

impl From<Result<Frame, UpstreamError>> for Answer {
    fn from(reply: Result<Frame, UpstreamError>) -> Self {
        match reply {
            Ok(frame) => Answer::Upstream(frame),
            Err(error) => Answer::Ours(Err(error.into())),
        }
    }
}

impl Job {
    /// Writes into the log who has changed something of ours, or tried to.
    fn tell(&self, defined: Option<&str>, outcome: Option<&RemoteError>) {
        let args = self.call.payload();
        if let Some(line) = changes::line(&self.who, self.procedure, &args, defined, outcome) {
            tracing::info!("{line}");
        }
    }

    /// Answers the call.
    pub(crate) async fn run(self, route: Route) {
        let defined = match &route {
            Route::DefineOurs(names) => names.name.clone(),
            _ => None,
        };
        let ours = !matches!(route, Route::DefineUpstream(_));
        let answer = match route {
            Route::OursFirst(absent) => self.ours_first(absent).await,
            Route::Both => self.both().await,
            Route::DefineOurs(names) => Answer::Ours(self.define_ours(&names).await),
            Route::DefineUpstream(names) => self.define_upstream(&names).await,
            Route::CloneIn | Route::CloneOut => Answer::Ours(self.clone_across(route).await),
            Route::Register => return self.register().await,
            Route::Deregister => self.deregister().await,
            _ => Answer::Ours(self.ours().await),
        };
        if let (true, Answer::Ours(answer)) = (ours, &answer) {
            self.tell(defined.as_deref(), answer.as_ref().err());
        }
        self.send(answer).await;
    }

    async fn send(&self, answer: Answer) {
        let sent = match answer {
            Answer::Ours(answer) => self.client.answer(&self.call.header, answer).await,
            Answer::Upstream(frame) => self.client.send(&frame.into()).await,
        };
        if let Err(error) = sent {
            tracing::debug!(client = %self.session, %error, "an answer found nobody");
        }
    }

    /// Runs a call of the driver where it may block.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn StorageService, &Session, &[u8]) -> Result<T, RemoteError>
        + Send
        + 'static,
    ) -> Result<T, RemoteError> {
        let service = Arc::clone(&self.shared.service);
        let (session, args) = (self.session.clone(), self.call.payload());
        let hold = Arc::clone(&self.hold);
        let work = move || {
            let done = work(&*service, &session, &args);
            drop(hold);
            done
        };
        let done = self.threads.run(work).await;
        done.unwrap_or_else(|error| {
            tracing::error!(procedure = %self.procedure, %error, "the storage driver failed");
            let detail = format!("the storage driver failed in {}", self.procedure);
            Err(RemoteError::new(ErrorCode::INTERNAL_ERROR, detail))
        })
    }

    /// Has the driver execute the call.
    pub(crate) async fn executed(&self) -> Result<Vec<u8>, RemoteError> {
        let (procedure, view) = (self.procedure, self.view);
        self.blocking(move |service, session, args| {
            service.call(session, Call { procedure, args, view })
        })
        .await
    }

    /// What upstream answers, however long that takes.
    async fn theirs(&self) -> Answer {
        match &self.upstream {
            Ok(upstream) => upstream.relay(self.call.clone()).await.into(),
            Err(error) => Answer::Ours(Err(error.clone())),
        }
    }

    /// The same of a question, which is answered soon or not at all.
    async fn theirs_soon(&self) -> Answer {
        match &self.upstream {
            Ok(upstream) => upstream.relay_within(self.call.clone()).await.into(),
            Err(error) => Answer::Ours(Err(error.clone())),
        }
    }

    async fn ours_first(&self, absent: ErrorCode) -> Answer {
        match self.ours().await {
            Err(error) if error.is(absent) => self.theirs_soon().await,
            answer => Answer::Ours(answer),
        }
    }

    async fn both(&self) -> Answer {
        let (theirs, ours) = tokio::join!(self.theirs_soon(), self.ours());
        match (theirs, ours) {
            (Answer::Upstream(reply), Ok(ours)) if reply.header.status == Status::Ok => {
                let args = self.call.payload();
                Answer::Ours(merge(self.procedure, &args, &reply.payload(), &ours))
            }
            (Answer::Upstream(reply), Err(error)) if reply.header.status == Status::Ok => {
                Answer::Ours(Err(error))
            }
            (theirs, _) => theirs,
        }
    }

    async fn define_ours(&self, names: &PoolNames) -> Result<Vec<u8>, RemoteError> {
        self.permitted().await?;
        let _held = self.shared.defining.hold(names).await;
        if let Some(existing) = self.upstream_pool(names).await? {
            return Err(already_exists(names, &existing));
        }
        self.executed().await
    }

    async fn define_upstream(&self, names: &PoolNames) -> Answer {
        let _held = self.shared.defining.hold(names).await;
        if let Some(existing) = conflict(names, &*self.shared.service) {
            // Who may not define it does not hear which pools there are.
            let permitted = self.permitted().await;
            return Answer::Ours(permitted.and(Err(already_exists(names, &existing))));
        }
        let answer = self.theirs().await;
        match self.shadow(&answer) {
            Some((made, error)) => Answer::Ours(Err(self.unmade(made, error).await)),
            None => answer,
        }
    }

    /// A pool that upstream has made beside one of ours, and what the client is to hear. libvirt
    /// reads definitions that our parser does not, so its answer is looked at as well.
    fn shadow(&self, answer: &Answer) -> Option<(StoragePool, RemoteError)> {
        let Answer::Upstream(reply) = answer else { return None };
        if reply.header.status != Status::Ok {
            return None;
        }
        let StoragePoolDefineXmlRet { pool } = decode(&reply.payload()).ok()?;
        let names = PoolNames { name: Some(pool.name.clone()), uuid: Some(pool.uuid) };
        let existing = conflict(&names, &*self.shared.service)?;
        Some((pool, already_exists(&names, &existing)))
    }

    /// Takes back what upstream has made; the error, with a word about what is left.
    async fn unmade(&self, pool: StoragePool, error: RemoteError) -> RemoteError {
        let name = pool.name.clone();
        let undone = match (&self.upstream, self.procedure) {
            (Err(lost), _) => Err(lost.clone()),
            (Ok(upstream), Procedure::StoragePoolCreateXml) => {
                let args = StoragePoolDestroyArgs { pool };
                let call = upstream.call(Procedure::StoragePoolDestroy, &args);
                call.await.map_err(RemoteError::from)
            }
            (Ok(upstream), _) => {
                let args = StoragePoolUndefineArgs { pool };
                let call = upstream.call(Procedure::StoragePoolUndefine, &args);
                call.await.map_err(RemoteError::from)
            }
        };
        let Err::<(), _>(left) = undone else { return error };
        tracing::error!(pool = name, error = %left, "libvirt has a pool of the same name as ours");
        let detail = format!("libvirt has made a pool '{name}' beside ours, and keeps it: {left}");
        RemoteError::new(ErrorCode::OPERATION_FAILED, detail)
    }

    /// The pool that upstream has under that name or UUID.
    async fn upstream_pool(&self, names: &PoolNames) -> Result<Option<StoragePool>, RemoteError> {
        let upstream = self.upstream.as_ref().map_err(Clone::clone)?;
        if let Some(name) = names.name.clone() {
            let args = StoragePoolLookupByNameArgs { name };
            let found = upstream.call(Procedure::StoragePoolLookupByName, &args).await;
            if let Some(StoragePoolLookupByNameRet { pool }) = present(found)? {
                return Ok(Some(pool));
            }
        }
        if let Some(uuid) = names.uuid {
            let args = StoragePoolLookupByUuidArgs { uuid };
            let found = upstream.call(Procedure::StoragePoolLookupByUuid, &args).await;
            if let Some(StoragePoolLookupByUuidRet { pool }) = present(found)? {
                return Ok(Some(pool));
            }
        }
        Ok(None)
    }

    /// The client learns its callback's number before it hears of events under it.
    async fn register(self) {
        let answer = self.theirs().await;
        let accepted = match &answer {
            Answer::Upstream(reply) if reply.header.status == Status::Ok => {
                let args = decode(&self.call.payload());
                let result = decode(&reply.payload());
                args.ok().zip(result.ok())
            }
            _ => None,
        };
        self.send(answer).await;
        if let Some((args, result)) = accepted {
            let ConnectStoragePoolEventRegisterAnyRet { callback_id } = result;
            self.registrations.add(callback_id, &args);
        }
    }

    async fn deregister(&self) -> Answer {
        let args: Result<ConnectStoragePoolEventDeregisterAnyArgs, _> =
            decode(&self.call.payload());
        if let Ok(args) = args {
            self.registrations.remove(args.callback_id);
        }
        self.theirs().await
    }

    /// A clone goes on to its end also when the client goes away meanwhile, as in libvirt.
    async fn clone_across(&self, route: Route) -> Result<Vec<u8>, RemoteError> {
        self.permitted().await?;
        let reconnect = self.reconnect.clone().ok_or(UpstreamError::Lost)?;
        let service = Arc::clone(&self.shared.service);
        let (session, threads) = (self.session.clone(), self.threads.clone());
        let parties = Parties { service, session, reconnect, threads };
        let args = self.call.payload();
        let cloning = tokio::spawn(async move {
            match route {
                Route::CloneIn => clone::from_upstream(parties, args).await,
                _ => clone::to_upstream(parties, args).await,
            }
        });
        cloning.await.unwrap_or_else(|error| Err(streams::broken(&error)))
    }

    /// Moves a volume's content from or to the client.
    pub(crate) async fn stream(mut self, route: Route, input: Incoming) {
        if let Err(error) = self.permitted().await {
            let refused = self.refuse(error).await;
            return self.log_end(refused);
        }
        let header = self.call.header;
        let outcome = if route == Route::Download {
            match self.blocking(|service, session, args| service.download(session, args)).await {
                Ok(source) => {
                    self.begun();
                    streams::download(&header, &self.client, &self.threads, source, input).await
                }
                Err(error) => self.refuse(error).await,
            }
        } else {
            match self.blocking(|service, session, args| service.upload(session, args)).await {
                Ok(target) => {
                    self.begun();
                    streams::upload(&header, &self.client, &self.threads, target, input).await
                }
                Err(error) => self.refuse(error).await,
            }
        };
        self.log_end(outcome);
    }

    fn begun(&mut self) {
        self.hold = self.hold.of_a_stream();
        self.tell(None, None);
    }

    async fn refuse(&self, error: RemoteError) -> io::Result<()> {
        self.tell(None, Some(&error));
        self.client.answer(&self.call.header, Err(error)).await
    }

    fn log_end(&self, outcome: io::Result<()>) {
        if let Err(error) = outcome {
            tracing::debug!(client = %self.session, %error, "a stream was cut");
        }
    }
}

/// Turns "there is none" into none.
fn present<T>(found: Result<T, UpstreamError>) -> Result<Option<T>, RemoteError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(UpstreamError::Refused(error)) if error.is(ErrorCode::NO_STORAGE_POOL) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
