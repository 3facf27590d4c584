// SPDX-License-Identifier: LGPL-2.1-or-later
//! Replaces the text of one error of libvirt's that misleads.
//!
//! A monolithic libvirtd looks up the volume of a `<disk type='volume'>` inside its own process, which knows no pools of
//! type `notify`. So it says that there is no such pool, although `virsh pool-list` shows it. On its way to the client
//! that error gets a text that says what to do. Modular daemons send the look-up through this proxy, and the error
//! does not occur.

use virtnotify_wire::{ErrorCode, ErrorDomain, Frame, RemoteError, Status, StorageService};

/// The same frame, or the same error in other words.
#[must_use]
pub fn explained(frame: Frame, service: &dyn StorageService) -> Frame {
    let storage = frame.known_procedure().is_some_and(|procedure| procedure.is_storage());
    if frame.header.status != Status::Error || storage {
        return frame;
    }
    match frame.decode_error().ok().and_then(|error| missing_pool(&error)) {
        Some(name) if service.pool_by_name(&name).is_some() => {
            Frame::error(frame.header, &explanation(&name))
        }
        _ => frame,
    }
}

/// The pool that libvirt did not find.
fn missing_pool(error: &RemoteError) -> Option<String> {
    let about = error.is(ErrorCode::NO_STORAGE_POOL) && error.domain == ErrorDomain::STORAGE.0;
    // libvirt may speak the host's language, but the name is quoted in each.
    let text = error.str2.as_deref().or(error.message.as_deref()).filter(|_| about)?;
    let (_, rest) = text.split_once('\'')?;
    Some(rest.split_once('\'')?.0.to_owned())
}

fn explanation(pool: &str) -> RemoteError {
    RemoteError::new(
        ErrorCode::CONFIG_UNSUPPORTED,
        format!(
            "libvirtd itself does not know the pool '{pool}', whose type is 'notify', and so \
             cannot use it for <disk type='volume'>: give the disk as <disk type='block'> with \
             <source dev='/dev/notify/{pool}/VOLUME'/>"
        ),
    )
}
