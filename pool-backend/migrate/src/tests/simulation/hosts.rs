// SPDX-License-Identifier: LGPL-2.1-or-later
//! The calls of a move, as a simulated world takes them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;
use uuid::Uuid;
use virtnotify_model::{
    Bytes, ChunkSize, Policy, PoolInfo, PoolName, PoolState, Pools, StorageError, VolumeInfo,
    VolumeKind, VolumeName, VolumeState, VolumeStats, not_active,
};

use super::world::{DISK, HERE, NAMES, SIZE, Volume, Who, World};
use crate::domain::{Domain, RunState};
use crate::hypervisor::{
    Copying, Holds, HostRoom, HvError, Hypervisor, Job, Order, Peer, Place, PoolRoom, RemoteVolume,
};
use crate::wishes::Origin;

/// All hosts, as the daemon on one of them sees them.
#[derive(Clone)]
pub(super) struct Hosts(pub Arc<Mutex<World>>);

impl Hosts {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A question.
    fn ask<T>(
        &self,
        place: Place<'_>,
        what: &str,
        answer: impl FnOnce(&mut World, usize) -> Result<T, HvError> + Send + 'static,
    ) -> Result<T, HvError> {
        let host = host_of(place);
        self.world().call(host, what, true, move |world| answer(world, host))
    }

    /// Something to do.
    fn act<T>(
        &self,
        place: Place<'_>,
        what: &str,
        effect: impl FnOnce(&mut World, usize) -> Result<T, HvError> + Send + 'static,
    ) -> Result<T, HvError> {
        let host = host_of(place);
        self.world().call(host, what, false, move |world| effect(world, host))
    }

    /// Does it to the VM.
    fn to_vm(
        &self,
        place: Place<'_>,
        what: &str,
        effect: impl FnOnce(&mut World, usize) -> Result<(), HvError> + Send + 'static,
    ) -> Result<(), HvError> {
        self.act(place, what, |world, host| match world.hosts[host].vm {
            Some(_) => effect(world, host),
            None => Err(HvError::refused("cannot find the VM", "it is gone")),
        })
    }
}

fn host_of(place: Place<'_>) -> usize {
    match place {
        Place::Here => HERE,
        Place::At(peer) => NAMES.iter().position(|name| *name == peer.name).unwrap(),
    }
}

fn remote(volume: &Volume) -> RemoteVolume {
    let written = if volume.data == 0 { Bytes::ZERO } else { SIZE };
    RemoteVolume { key: volume.key.to_string(), capacity: SIZE, allocation: written }
}

impl Hypervisor for Hosts {
    fn host(&self, place: Place<'_>) -> Result<String, HvError> {
        self.ask(place, "host", |_, host| Ok(NAMES[host].to_owned()))
    }

    fn stalled(&self) -> Result<Vec<Domain>, HvError> {
        unimplemented!("no part of one move")
    }

    fn domains(&self, place: Place<'_>) -> Result<Vec<Domain>, HvError> {
        self.ask(place, "domains", |world, host| {
            world.look(host);
            Ok(world.hosts[host].vm.iter().cloned().collect())
        })
    }

    fn domain(&self, place: Place<'_>, _: Uuid) -> Result<Option<Domain>, HvError> {
        self.ask(place, "domain", |world, host| {
            world.look(host);
            Ok(world.hosts[host].vm.clone())
        })
    }

    fn pool_room(&self, peer: &Peer, _: &PoolName) -> Result<Option<PoolRoom>, HvError> {
        let room = PoolRoom {
            notify: true,
            active: true,
            capacity: Bytes::mib(4096),
            available: Bytes::mib(2048),
            drained: false,
            chunk: None,
        };
        self.ask(Place::At(peer), "pool_room", move |_, _| Ok(Some(room)))
    }

    fn host_room(&self, _: &Peer, _: &Domain) -> Result<HostRoom, HvError> {
        unimplemented!("no part of one move")
    }

    fn holds(&self, _: &Domain) -> Result<Holds, HvError> {
        unimplemented!("no part of one move")
    }

    fn lacks_certificate(&self) -> Option<PathBuf> {
        unimplemented!("no part of one move")
    }

    fn copying(&self, _: &Peer) -> Result<Copying, HvError> {
        unimplemented!("no part of one move")
    }

    fn volume_names(&self, peer: &Peer, _: &PoolName) -> Result<Vec<String>, HvError> {
        self.ask(Place::At(peer), "volume_names", |world, host| {
            Ok(world.hosts[host].volumes.keys().cloned().collect())
        })
    }

    fn volume(
        &self,
        peer: &Peer,
        _: &PoolName,
        volume: &VolumeName,
    ) -> Result<Option<RemoteVolume>, HvError> {
        let volume = volume.to_string();
        self.ask(Place::At(peer), "volume", move |world, host| {
            Ok(world.hosts[host].volumes.get(&volume).map(remote))
        })
    }

    fn create_volume(
        &self,
        peer: &Peer,
        _: &PoolName,
        volume: &VolumeName,
        _: Bytes,
    ) -> Result<RemoteVolume, HvError> {
        let volume = volume.to_string();
        self.act(Place::At(peer), &format!("create {volume:.5}"), move |world, host| {
            if world.hosts[host].volumes.contains_key(&volume) {
                return Err(HvError::refused("cannot make the volume", "it exists"));
            }
            let made = Volume { key: world.key(), data: 0 };
            let shown = remote(&made);
            world.hosts[host].volumes.insert(volume, made);
            Ok(shown)
        })
    }

    fn delete_volume(&self, peer: &Peer, _: &PoolName, volume: &VolumeName) -> Result<(), HvError> {
        let volume = volume.to_string();
        self.act(Place::At(peer), &format!("delete {volume:.5}"), move |world, host| {
            world.delete(host, &volume);
            Ok(())
        })
    }

    fn migrate(&self, order: Order<'_>) -> Result<(), HvError> {
        let to = host_of(Place::At(order.peer));
        self.act(Place::Here, "migrate", move |world, _| world.migrate(to))?;
        // libvirt works; we may die meanwhile.
        loop {
            let mut world = self.world();
            if !world.is_migrating() {
                return Err(HvError::refused("libvirt could not migrate it", "it is over"));
            }
            if let Some(ends) = world.progress() {
                drop(world);
                return self.act(Place::Here, "migrated", |_, _| ends);
            }
            world.call(HERE, "migrating", true, |_| Ok(()))?;
        }
    }

    fn abort(&self, _: Uuid) -> Result<(), HvError> {
        self.to_vm(Place::Here, "abort", |world, _| {
            world.abort();
            Ok(())
        })
    }

    fn set_origins(&self, _: Uuid, _: &[Origin]) -> Result<(), HvError> {
        self.to_vm(Place::Here, "set_origins", |_, _| Ok(()))
    }

    fn set_wishes(&self, _: Uuid, _: &str) -> Result<(), HvError> {
        unimplemented!("no part of one move")
    }

    fn job(&self, _: Uuid) -> Result<Job, HvError> {
        self.ask(Place::Here, "job", |world, _| Ok(world.job()))
    }

    fn set_autostart(&self, place: Place<'_>, _: Uuid, on: bool) -> Result<(), HvError> {
        self.to_vm(place, &format!("autostart {on}"), move |world, host| {
            match world.hosts[host].vm.as_mut().filter(|vm| vm.persistent) {
                Some(vm) => vm.autostart = on,
                None => return Err(HvError::refused("cannot set autostart", "it is transient")),
            }
            Ok(())
        })
    }

    fn start(&self, _: Uuid) -> Result<(), HvError> {
        self.to_vm(Place::Here, "start", |world, host| {
            if world.hosts[host].state() != Some(RunState::Off) {
                return Err(HvError::refused("cannot start the VM", "it is active"));
            }
            world.runs(host, Who::Daemon);
            Ok(())
        })
    }

    fn resume(&self, place: Place<'_>, _: Uuid) -> Result<(), HvError> {
        self.to_vm(place, "resume", |world, host| match world.hosts[host].state() {
            Some(RunState::Off) => Err(HvError::refused("cannot resume", "it is off")),
            Some(RunState::Running) => Ok(()),
            _ => {
                world.runs(host, Who::Daemon);
                Ok(())
            }
        })
    }

    fn suspend(&self, place: Place<'_>, _: Uuid) -> Result<(), HvError> {
        self.to_vm(place, "suspend", |world, host| {
            let vm = world.hosts[host].vm.as_mut().filter(|vm| vm.state != RunState::Off);
            vm.ok_or_else(|| HvError::refused("cannot suspend", "it is off"))?.state =
                RunState::Paused;
            Ok(())
        })
    }

    fn destroy(&self, place: Place<'_>, _: Uuid) -> Result<(), HvError> {
        self.to_vm(place, "destroy", |world, host| {
            world.destroy(host);
            Ok(())
        })
    }

    fn undefine(&self, place: Place<'_>, _: Uuid) -> Result<(), HvError> {
        self.to_vm(place, "undefine", |world, host| {
            world.undefine(host);
            Ok(())
        })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }
}

/// This host's volumes.
impl Pools for Hosts {
    fn runs(&self) -> bool {
        true
    }

    fn pools(&self) -> Vec<PoolState> {
        unimplemented!("no part of one move")
    }

    fn pool_info(&self, _: &PoolName) -> Result<PoolInfo, StorageError> {
        let none = Bytes::ZERO;
        Ok(PoolInfo {
            capacity: Bytes::mib(4096),
            allocation: none,
            available: none,
            headroom: none,
            obtainable: none,
            promised: none,
            chunk: ChunkSize::default(),
        })
    }

    fn volumes(&self, _: &PoolName) -> Result<Vec<VolumeInfo>, StorageError> {
        Ok(Vec::new())
    }

    fn volume_stats(&self, _: &PoolName, _: &VolumeName) -> Result<VolumeStats, StorageError> {
        unimplemented!("no part of one move")
    }

    fn policy(&self, _: &PoolName) -> Result<Policy, StorageError> {
        Ok(Policy::default())
    }

    fn volume(&self, pool: &PoolName, volume: &VolumeName) -> Result<VolumeInfo, StorageError> {
        let name = volume.to_string();
        let found = self.ask(Place::Here, "our volume", move |world, host| {
            let key = world.hosts[host].volumes.get(&name).map(|volume| volume.key);
            Ok(key.map(|key| (key, world.is_active(host))))
        });
        let found = found.map_err(|_| not_active(pool))?;
        let gone = || StorageError::NoVolume(DISK.to_owned());
        let (key, open) = found.ok_or_else(gone)?;
        Ok(VolumeInfo {
            pool: pool.clone(),
            name: volume.clone(),
            uuid: Uuid::from_u128(key.into()),
            kind: VolumeKind::Volume,
            created: SystemTime::UNIX_EPOCH,
            backing: None,
            capacity: SIZE,
            allocation: SIZE,
            exclusive: SIZE,
            path: format!("/dev/notify/{pool}/{volume}").into(),
            state: VolumeState::Growing,
            openers: u32::from(open),
        })
    }

    fn delete_volume(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        uuid: &Uuid,
    ) -> Result<(), StorageError> {
        if Pools::volume(self, pool, volume)?.uuid != *uuid {
            return Err(StorageError::NoVolume("it is another one".into()));
        }
        let name = volume.to_string();
        let deleted = self.act(Place::Here, "delete our volume", move |world, host| {
            let used = world.is_active(host);
            if !used {
                world.delete(host, &name);
            }
            Ok(used)
        });
        match deleted {
            Ok(true) => Err(StorageError::InUse(volume.to_string())),
            Ok(false) => Ok(()),
            Err(_) => Err(not_active(pool)),
        }
    }
}
