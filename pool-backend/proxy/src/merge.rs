// SPDX-License-Identifier: LGPL-2.1-or-later
//! Puts the answers of both sides to one list call together.

use virtnotify_wire::procedure::Form;
use virtnotify_wire::storage::{
    ConnectGetStoragePoolCapabilitiesRet, ConnectListAllStoragePoolsRet,
    ConnectListStoragePoolsArgs, ConnectListStoragePoolsRet, ConnectNumOfStoragePoolsRet, LIST_MAX,
};
use virtnotify_wire::{About, ErrorCode, Procedure, RemoteError, decode, encode};

/// Where our part of the capabilities goes.
const CAPABILITIES_END: &str = "</storagepoolCapabilities>";

/// The answer to a call that both sides answered, upstream's part first.
///
/// # Errors
/// When an answer cannot be read, or the whole is longer than the protocol allows.
pub fn merge(
    procedure: Procedure,
    args: &[u8],
    upstream: &[u8],
    ours: &[u8],
) -> Result<Vec<u8>, RemoteError> {
    match procedure.about() {
        About::Pools(_, Form::Count) => counts(upstream, ours),
        About::Pools(_, Form::Names) => names(args, upstream, ours),
        About::Pools(_, Form::Handles) => pools(upstream, ours),
        About::Capabilities => capabilities(upstream, ours),
        _ => {
            let detail = format!("{procedure} has no merged answer");
            Err(RemoteError::new(ErrorCode::INTERNAL_ERROR, detail))
        }
    }
}

/// The active and the defined pools are counted by the same struct.
fn counts(upstream: &[u8], ours: &[u8]) -> Result<Vec<u8>, RemoteError> {
    let upstream: ConnectNumOfStoragePoolsRet = decode(upstream)?;
    let ours: ConnectNumOfStoragePoolsRet = decode(ours)?;
    let num = upstream.num.saturating_add(ours.num);
    Ok(encode(&ConnectNumOfStoragePoolsRet { num })?)
}

/// The active and the defined pools are listed by the same struct.
fn names(args: &[u8], upstream: &[u8], ours: &[u8]) -> Result<Vec<u8>, RemoteError> {
    let args: ConnectListStoragePoolsArgs = decode(args)?;
    let mut both: ConnectListStoragePoolsRet = decode(upstream)?;
    let ours: ConnectListStoragePoolsRet = decode(ours)?;
    both.names.extend(ours.names.0);
    both.names.truncate(usize::try_from(args.maxnames).unwrap_or(0).min(LIST_MAX));
    Ok(encode(&both)?)
}

fn pools(upstream: &[u8], ours: &[u8]) -> Result<Vec<u8>, RemoteError> {
    let mut both: ConnectListAllStoragePoolsRet = decode(upstream)?;
    let ours: ConnectListAllStoragePoolsRet = decode(ours)?;
    both.pools.extend(ours.pools.0);
    both.ret = both.ret.saturating_add(ours.ret);
    Ok(encode(&both)?)
}

fn capabilities(upstream: &[u8], ours: &[u8]) -> Result<Vec<u8>, RemoteError> {
    let mut both: ConnectGetStoragePoolCapabilitiesRet = decode(upstream)?;
    let ours: ConnectGetStoragePoolCapabilitiesRet = decode(ours)?;
    if let Some(end) = both.capabilities.rfind(CAPABILITIES_END) {
        let element = ours.capabilities.trim_end().replace('\n', "\n  ");
        both.capabilities.insert_str(end, &format!("  {}\n", element.trim_start()));
    }
    Ok(encode(&both)?)
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
