// SPDX-License-Identifier: LGPL-2.1-or-later
//! Which pool of ours a call is about, said once and for all: a pool's handle is a UUID and a name, and a client may send
//! the UUID of one pool with the name of another. The UUID counts, as in libvirt. From here on the name is that pool's,
//! so that polkit is asked about, the driver changes, and the log tells of one and the same pool.

use virtnotify_wire::{
    About, ErrorCode, ErrorDomain, Frame, Header, MessageType, Procedure, RemoteError, StoragePool,
    StorageService, decode, encode,
};

/// A call of ours with its pool's own name.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn settled(
    procedure: Procedure,
    call: Frame,
    service: &dyn StorageService,
) -> Result<Frame, RemoteError> {
    use About as A;
    let by_handle = matches!(
        procedure.about(),
        A::Pool | A::Volumes(_) | A::VolumeName | A::NewVolume | A::Clone
    );
    if !by_handle {
        return Ok(call);
    }
    let args = call.payload();
    let sent: StoragePool = decode(&args)?;
    let own = service.pool_by_uuid(&sent.uuid).filter(|own| own.name != sent.name);
    let Some(own) = own else { return Ok(call) };
    let rest = args.get(encode(&sent)?.len()..).unwrap_or_default();
    // Descriptors, if it came with some, were for nobody.
    let header = Header { kind: MessageType::Call, ..call.header };
    Frame::new(header, &[&encode(&own)?[..], rest].concat())
        .map_err(|error| RemoteError::of(ErrorDomain::RPC, ErrorCode::RPC, error.to_string()))
}
