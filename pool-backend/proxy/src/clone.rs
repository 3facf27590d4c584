// SPDX-License-Identifier: LGPL-2.1-or-later
//! Clones between a pool of ours and one of upstream's.
//!
//! Neither side can open the other's volumes by the calls of libvirt's protocol, so the content
//! goes through a stream: downloaded from upstream into a volume that the driver has made, or
//! uploaded into one that upstream has made. Holes stay holes. Upstream is asked over a
//! connection of its own, opened as the client's and with the client's identity, so that what
//! the client may not read or make is refused there.
//!
//! What fails leaves no volume behind. Where the daemon is killed in the middle, the next one deletes
//! an incomplete volume of ours (see the driver); one of upstream's stays, as with libvirt's own.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use virtnotify_wire::frame::EncodeError;
use virtnotify_wire::service::{CloneIn, CloneOut, Download, DownloadChunk, Upload};
use virtnotify_wire::storage::{
    StorageVolCreateXmlArgs, StorageVolCreateXmlFromArgs, StorageVolCreateXmlFromRet,
    StorageVolCreateXmlRet, StorageVolDeleteArgs, StorageVolDownloadArgs, StorageVolGetXmlDescArgs,
    StorageVolGetXmlDescRet, StorageVolUploadArgs,
};
use virtnotify_wire::{
    Frame, Header, MessageType, Procedure, RemoteError, Session, Status, StorageService,
    StorageVol, Xdr, decode, encode,
};

use crate::link::{Connected, Reconnect};
use crate::streams::{DATA_MAX, broken, frame, take, unexpected};
use crate::threads::Threads;
use crate::upstream::{Destination, UpstreamError};

/// `VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM`, and the same number for uploads.
const SPARSE: u32 = 1;
/// How many frames of upstream wait for our volume.
const WAITING: usize = 4;

/// Who takes part.
pub(crate) struct Parties {
    pub(crate) service: Arc<dyn StorageService>,
    pub(crate) session: Session,
    pub(crate) reconnect: Reconnect,
    pub(crate) threads: Threads,
}

/// Makes a volume of ours that holds what one of upstream's does.
pub(crate) async fn from_upstream(who: Parties, args: Bytes) -> Result<Vec<u8>, RemoteError> {
    let StorageVolCreateXmlFromArgs { clonevol, .. } = decode(&args)?;
    let mut other = Other::connect(&who.reconnect).await?;
    let question = StorageVolGetXmlDescArgs { vol: clonevol.clone(), flags: 0 };
    let source: StorageVolGetXmlDescRet =
        other.call(Procedure::StorageVolGetXmlDesc, &question).await?;
    let (service, session, threads) = (who.service, who.session, who.threads);
    let made = blocking(&threads, move || service.clone_in(&session, &args, &source.xml)).await?;
    let CloneIn { answer, content } = made;
    let mut content = Some(content);
    let filled = other.download(&threads, clonevol, &mut content).await;
    // Finished or dropped, which unmakes the volume: both may block.
    blocking(&threads, move || match (filled, content) {
        (Ok(()), Some(content)) => content.finish().map(|()| answer),
        (filled, _) => filled.map(|()| answer),
    })
    .await
}

/// Makes a volume of upstream's that holds what one of ours does.
pub(crate) async fn to_upstream(who: Parties, args: Bytes) -> Result<Vec<u8>, RemoteError> {
    let StorageVolCreateXmlFromArgs { pool, flags, .. } = decode(&args)?;
    let (service, session, threads) = (who.service, who.session, who.threads);
    let cloning = blocking(&threads, move || service.clone_out(&session, &args));
    let CloneOut { xml, content } = cloning.await?;
    let mut other = Other::connect(&who.reconnect).await?;
    let wish = StorageVolCreateXmlArgs { pool, xml, flags };
    let made: StorageVolCreateXmlRet =
        other.connection.upstream.call_at_length(Procedure::StorageVolCreateXml, &wish).await?;
    if let Err(error) = other.upload(&threads, made.vol.clone(), content).await {
        let undo = StorageVolDeleteArgs { vol: made.vol, flags: 0 };
        if let Err(left) = other.call::<_, ()>(Procedure::StorageVolDelete, &undo).await {
            tracing::warn!(%left, "an incomplete clone is left over in a pool of libvirt's");
        }
        return Err(error);
    }
    Ok(encode(&StorageVolCreateXmlFromRet { vol: made.vol })?)
}

/// Runs what may block where it may.
async fn blocking<T: Send + 'static>(
    threads: &Threads,
    work: impl FnOnce() -> Result<T, RemoteError> + Send + 'static,
) -> Result<T, RemoteError> {
    threads.run(work).await.unwrap_or_else(|error| Err(broken(&error)))
}

/// Upstream, with one stream at a time.
struct Other {
    connection: Connected,
    frames: mpsc::Receiver<Frame>,
}

impl Other {
    async fn connect(reconnect: &Reconnect) -> Result<Self, RemoteError> {
        let (sender, frames) = mpsc::channel(WAITING);
        let connection = reconnect.connect(Destination::Stream(sender)).await?;
        Ok(Other { connection, frames })
    }

    async fn call<A: Xdr, R: Xdr>(&self, procedure: Procedure, args: &A) -> Result<R, RemoteError> {
        Ok(self.connection.upstream.call(procedure, args).await?)
    }

    /// Opens a stream, a sparse one unless upstream has none for such a volume; says which.
    async fn open<A: Xdr>(
        &self,
        procedure: Procedure,
        args: impl Fn(u32) -> A,
    ) -> Result<(Header, bool), RemoteError> {
        match self.connection.upstream.open_stream(procedure, &args(SPARSE)).await {
            Err(UpstreamError::Refused(_)) => {
                Ok((self.connection.upstream.open_stream(procedure, &args(0)).await?, false))
            }
            opened => Ok((opened?, true)),
        }
    }

    /// The next frame of the stream that is open.
    async fn next(&mut self) -> Result<Frame, RemoteError> {
        loop {
            let frame = self.frames.recv().await.ok_or(UpstreamError::Lost)?;
            match (frame.header.kind, frame.header.status) {
                (MessageType::Stream, Status::Error) => return Err(frame.decode_error()?),
                (MessageType::Stream | MessageType::StreamHole, _) => return Ok(frame),
                // An event that nobody asked for.
                _ => {}
            }
        }
    }

    async fn send(&self, frame: Result<Frame, EncodeError>) -> Result<(), RemoteError> {
        Ok(self.connection.upstream.stream(frame.map_err(UpstreamError::from)?).await?)
    }

    /// Ends a stream from our side and waits for upstream to confirm it.
    async fn finish(&mut self, stream: Header) -> Result<(), RemoteError> {
        let end = Header { status: Status::Ok, ..stream };
        self.send(Frame::new(end, &[]).map_err(Into::into)).await?;
        while self.next().await?.header.status != Status::Ok {}
        Ok(())
    }

    /// Puts all of a volume of upstream's into one of ours.
    async fn download(
        &mut self,
        threads: &Threads,
        vol: StorageVol,
        content: &mut Option<Box<dyn Upload>>,
    ) -> Result<(), RemoteError> {
        let args = |flags| StorageVolDownloadArgs { vol: vol.clone(), offset: 0, length: 0, flags };
        let (stream, _) = self.open(Procedure::StorageVolDownload, args).await?;
        loop {
            let frame = self.next().await?;
            match frame.header.status {
                Status::Continue if frame.payload().is_empty() => break,
                Status::Continue => {}
                _ => return Err(unexpected("end of a stream")),
            }
            let Some(mut target) = content.take() else { break };
            let taken =
                blocking(threads, move || take(&mut *target, &frame).map(|()| target)).await;
            *content = Some(taken?);
        }
        self.finish(stream).await
    }

    /// Puts all of a volume of ours into one of upstream's.
    async fn upload(
        &mut self,
        threads: &Threads,
        vol: StorageVol,
        mut content: Box<dyn Download>,
    ) -> Result<(), RemoteError> {
        let args = |flags| StorageVolUploadArgs { vol: vol.clone(), offset: 0, length: 0, flags };
        let (stream, sparse) = self.open(Procedure::StorageVolUpload, args).await?;
        loop {
            // Upstream says nothing before the end but that it cannot go on.
            if !self.frames.is_empty() {
                self.next().await?;
            }
            let (back, chunk) =
                blocking(threads, move || content.next(DATA_MAX).map(|chunk| (content, chunk)))
                    .await?;
            content = back;
            match chunk {
                DownloadChunk::End => return self.finish(stream).await,
                DownloadChunk::Hole(length) if !sparse => self.zeroes(stream, length).await?,
                chunk => self.send(frame(stream, &chunk)).await?,
            }
        }
    }

    /// Sends a hole to a volume that takes none.
    async fn zeroes(&self, stream: Header, mut length: u64) -> Result<(), RemoteError> {
        let zeroes = vec![0; DATA_MAX];
        while length > 0 {
            let part = usize::try_from(length).unwrap_or(DATA_MAX).min(DATA_MAX);
            self.send(Frame::new(stream, &zeroes[..part]).map_err(Into::into)).await?;
            length -= part as u64;
        }
        Ok(())
    }
}
