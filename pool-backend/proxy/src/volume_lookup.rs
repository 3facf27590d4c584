// SPDX-License-Identifier: LGPL-2.1-or-later
//! Recognises virtqemud translating a `<disk type='volume'>`.
//!
//! For each such disk virtqemud opens a fresh connection and looks the volume up:
//!
//! ```text
//! Opening --LOOKUP_BY_NAME(pool)--> PoolFound --IS_ACTIVE(pool)--> ActiveAsked
//!   --VOL_LOOKUP_BY_NAME(pool, name)--> VolumeFound --VOL_GET_INFO(vol)--> InfoAsked
//!   --POOL_GET_XML_DESC(pool, 0)--> Answered --VOL_GET_PATH(vol)--> Opening
//! ```
//!
//! In `Opening` the calls that every libvirt client makes first are passed over:
//! authentication, open, identity, feature probes. Any call out of turn leads to
//! `Other`, for good: the connection is one of a client that does something else.
//!
//! The parser that reads the XML in virtqemud knows libvirt's own pool types only, so this
//! one answer says `logical`. No other client may see that, hence the exact sequence and
//! the check of the peer's program. virsh and virt-manager never produce it: virsh looks a pool up
//! anew before it asks for its XML, virt-manager lists the pools first. A script that
//! makes these five calls as its first, through virtqemud, would.

use virtnotify_wire::storage::{
    StoragePoolGetXmlDescArgs, StoragePoolIsActiveArgs, StoragePoolLookupByNameArgs,
    StorageVolGetInfoArgs, StorageVolGetPathArgs, StorageVolLookupByNameArgs,
};
use virtnotify_wire::{Procedure, StoragePool, StorageVol, Xdr, decode};

/// The sequence as far as one connection has come.
#[derive(Debug, Clone, PartialEq)]
pub struct VolumeLookup {
    state: State,
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    Opening,
    PoolFound { pool_name: String },
    ActiveAsked { pool: StoragePool },
    VolumeFound { pool: StoragePool, name: String },
    InfoAsked { pool: StoragePool, vol: StorageVol },
    Answered { vol: StorageVol },
    Other,
}

impl VolumeLookup {
    /// A connection of that program that has made no call yet. `None` is a program that
    /// could not be seen: starting a VM matters more than an odd answer.
    #[must_use]
    pub fn new(program: Option<&str>) -> Self {
        let candidate = program.is_none_or(|name| name == "virtqemud");
        VolumeLookup { state: if candidate { State::Opening } else { State::Other } }
    }

    /// Takes note of a call; `procedure` is `None` for one that is not known. True if
    /// this call is the one that has to be answered with a pool type virtqemud knows.
    pub fn observe(&mut self, procedure: Option<Procedure>, args: &[u8]) -> bool {
        let state = std::mem::replace(&mut self.state, State::Other);
        self.state = next(state, procedure, args).unwrap_or(State::Other);
        matches!(self.state, State::Answered { .. })
    }
}

fn next(state: State, procedure: Option<Procedure>, args: &[u8]) -> Option<State> {
    use Procedure as P;
    match (state, procedure?) {
        (
            State::Opening,
            P::AuthList
            | P::AuthPolkit
            | P::ConnectOpen
            | P::ConnectSupportsFeature
            | P::ConnectSetIdentity,
        ) => Some(State::Opening),
        (State::Opening, P::StoragePoolLookupByName) => {
            let StoragePoolLookupByNameArgs { name } = read(args)?;
            Some(State::PoolFound { pool_name: name })
        }
        (State::PoolFound { pool_name }, P::StoragePoolIsActive) => {
            let StoragePoolIsActiveArgs { pool } = read(args)?;
            (pool.name == pool_name).then_some(State::ActiveAsked { pool })
        }
        (State::ActiveAsked { pool }, P::StorageVolLookupByName) => {
            let args: StorageVolLookupByNameArgs = read(args)?;
            (args.pool == pool).then_some(State::VolumeFound { pool, name: args.name })
        }
        (State::VolumeFound { pool, name }, P::StorageVolGetInfo) => {
            let StorageVolGetInfoArgs { vol } = read(args)?;
            (vol.pool == pool.name && vol.name == name).then_some(State::InfoAsked { pool, vol })
        }
        (State::InfoAsked { pool, vol }, P::StoragePoolGetXmlDesc) => {
            let args: StoragePoolGetXmlDescArgs = read(args)?;
            (args.pool == pool && args.flags == 0).then_some(State::Answered { vol })
        }
        (State::Answered { vol }, P::StorageVolGetPath) => {
            let args: StorageVolGetPathArgs = read(args)?;
            (args.vol == vol).then_some(State::Opening)
        }
        _ => None,
    }
}

fn read<T: Xdr>(args: &[u8]) -> Option<T> {
    decode(args).ok()
}

#[cfg(test)]
#[path = "volume_lookup_tests.rs"]
mod tests;
