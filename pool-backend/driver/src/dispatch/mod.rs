// SPDX-License-Identifier: LGPL-2.1-or-later
//! From a procedure and its encoded arguments to the driver, and back.
//!
//! Each function here decodes, checks flags, asks the [`Driver`] and encodes; none decides
//! anything. The names of functions in errors about flags are libvirt's.

mod connect;
mod pool;
mod volume;

use virtnotify_wire::service::{
    Call, CloneIn, CloneOut, Download, EventSink, PoolXmlPeek, Session, StorageService, Upload,
    VolumeXmlPeek,
};
use virtnotify_wire::{Procedure, RemoteError, StoragePool, Uuid, Xdr, decode, encode};

use crate::driver::Driver;
use crate::error::DriverError;
use crate::xml;

/// How much of an error's text goes into the log.
const LOGGED_MAX: usize = 500;

/// An encoded result.
type Answer = Result<Vec<u8>, DriverError>;

impl StorageService for Driver {
    fn call(&self, session: &Session, call: Call<'_>) -> Result<Vec<u8>, RemoteError> {
        let answer = connect::call(self, &call)
            .or_else(|| pool::call(self, &call))
            .or_else(|| volume::call(self, &call))
            .unwrap_or_else(|| Err(unsupported(call.procedure)));
        answer.map_err(|error| {
            // The text may quote the client: bounded, and without line ends of its own.
            let text: String = error.to_string().chars().take(LOGGED_MAX).collect();
            let name = call.procedure.name();
            tracing::debug!("{session}: {name}: {}", text.escape_debug());
            error.into()
        })
    }

    fn pool_by_name(&self, name: &str) -> Option<StoragePool> {
        self.by_name(name).ok()
    }

    fn pool_by_uuid(&self, uuid: &Uuid) -> Option<StoragePool> {
        self.by_uuid(*uuid).ok()
    }

    fn peek_pool_xml(&self, xml: &str) -> PoolXmlPeek {
        xml::peek(xml)
    }

    fn peek_volume_xml(&self, xml: &str) -> VolumeXmlPeek {
        xml::peek_volume(xml)
    }

    fn set_event_sink(&self, sink: EventSink) {
        self.set_sink(sink);
    }

    fn download(&self, _: &Session, args: &[u8]) -> Result<Box<dyn Download>, RemoteError> {
        Ok(Box::new(volume::download(self, args)?))
    }

    fn upload(&self, _: &Session, args: &[u8]) -> Result<Box<dyn Upload>, RemoteError> {
        Ok(Box::new(volume::upload(self, args)?))
    }

    fn clone_in(&self, _: &Session, args: &[u8], source: &str) -> Result<CloneIn, RemoteError> {
        Ok(self.clone_from_other(&decode(args)?, source)?)
    }

    fn clone_out(&self, _: &Session, args: &[u8]) -> Result<CloneOut, RemoteError> {
        Ok(self.clone_for_other(&decode(args)?)?)
    }
}

fn unsupported(procedure: Procedure) -> DriverError {
    let name = procedure.name();
    DriverError::Unsupported(format!("pools of type 'notify' do not answer {name}"))
}

/// Decodes, asks and encodes.
fn answer<A: Xdr, R: Xdr>(
    call: &Call<'_>,
    ask: impl FnOnce(A) -> Result<R, DriverError>,
) -> Answer {
    let args = decode::<A>(call.args)?;
    Ok(encode(&ask(args)?)?)
}

/// Cuts a list to what a client has room for.
fn at_most(maxnames: i32, what: &str) -> Result<usize, DriverError> {
    usize::try_from(maxnames)
        .map_err(|_| DriverError::Argument(format!("maxnames in {what} must be zero or greater")))
}

/// A count as the protocol has it.
fn count(list: &[impl Sized]) -> i32 {
    i32::try_from(list.len()).unwrap_or(i32::MAX)
}

/// The same where it has no sign.
fn total(list: &[impl Sized]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}
