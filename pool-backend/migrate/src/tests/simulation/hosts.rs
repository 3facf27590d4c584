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

use super::world::{HERE, NAMES, SIZE, Volume, Who, World};
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
        uuid: Uuid,
        what: &str,
        effect: impl FnOnce(&mut World, usize, usize) -> Result<(), HvError> + Send + 'static,
    ) -> Result<(), HvError> {
        self.act(place, what, move |world, host| {
            let guest = world.guest(uuid);
            match world.guests[guest].at[host].vm {
                Some(_) => effect(world, guest, host),
                None => Err(HvError::gone("cannot find the VM")),
            }
        })
    }
}

fn host_of(place: Place<'_>) -> usize {
    match place {
        Place::Here => HERE,
        Place::At(peer) => NAMES.iter().position(|name| *name == peer.name).unwrap(),
    }
}

/// Whether a VM that is active there has it.
fn is_open(world: &World, host: usize, volume: &str) -> bool {
    let mut active = world.guests.iter().filter(|guest| guest.is_active(host));
    active.any(|guest| guest.disks.iter().any(|disk| disk == volume))
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
            (0..world.guests.len()).for_each(|guest| world.look(guest, host));
            Ok(world.guests.iter().filter_map(|guest| guest.at[host].vm.clone()).collect())
        })
    }

    fn domain(&self, place: Place<'_>, uuid: Uuid) -> Result<Option<Domain>, HvError> {
        self.ask(place, "domain", move |world, host| {
            let guest = world.guest(uuid);
            world.look(guest, host);
            Ok(world.guests[guest].at[host].vm.clone())
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
        let (to, disks) = (host_of(Place::At(order.peer)), order.disks.to_vec());
        let guest = self.world().guest(order.uuid);
        self.act(Place::Here, "migrate", move |world, _| world.migrate(guest, to, disks))?;
        // libvirt works; we may die meanwhile.
        loop {
            let mut world = self.world();
            if world.guests[guest].migration.is_none() {
                return Err(HvError::refused("libvirt could not migrate it", "it is over"));
            }
            if let Some(ends) = world.progress(guest) {
                drop(world);
                return self.act(Place::Here, "migrated", |_, _| ends);
            }
            world.call(HERE, "migrating", true, |_| Ok(()))?;
        }
    }

    fn abort(&self, uuid: Uuid) -> Result<(), HvError> {
        self.to_vm(Place::Here, uuid, "abort", |world, guest, _| {
            world.abort(guest);
            Ok(())
        })
    }

    fn set_origins(&self, uuid: Uuid, _: &[Origin]) -> Result<(), HvError> {
        self.to_vm(Place::Here, uuid, "set_origins", |_, _, _| Ok(()))
    }

    fn set_wishes(&self, _: Uuid, _: &str) -> Result<(), HvError> {
        unimplemented!("no part of one move")
    }

    fn job(&self, uuid: Uuid) -> Result<Job, HvError> {
        self.ask(Place::Here, "job", move |world, _| {
            let guest = world.guest(uuid);
            Ok(world.job(guest))
        })
    }

    fn set_autostart(&self, place: Place<'_>, uuid: Uuid, on: bool) -> Result<(), HvError> {
        self.to_vm(place, uuid, &format!("autostart {on}"), move |world, guest, host| {
            match world.guests[guest].at[host].vm.as_mut().filter(|vm| vm.persistent) {
                Some(vm) => vm.autostart = on,
                None => return Err(HvError::refused("cannot set autostart", "it is transient")),
            }
            Ok(())
        })
    }

    fn start(&self, uuid: Uuid) -> Result<(), HvError> {
        self.to_vm(Place::Here, uuid, "start", |world, guest, host| {
            if world.guests[guest].state(host) != Some(RunState::Off) {
                return Err(HvError::refused("cannot start the VM", "it is active"));
            }
            if world.fails_to_start(guest, host) {
                return Err(HvError::refused("cannot start the VM", "the pool is not started"));
            }
            world.runs(guest, host, Who::Daemon);
            Ok(())
        })
    }

    fn resume(&self, place: Place<'_>, uuid: Uuid) -> Result<(), HvError> {
        self.to_vm(place, uuid, "resume", |world, guest, host| {
            match world.guests[guest].state(host) {
                Some(RunState::Off) => Err(HvError::refused("cannot resume", "it is off")),
                Some(RunState::Running) => Ok(()),
                _ => {
                    world.runs(guest, host, Who::Daemon);
                    Ok(())
                }
            }
        })
    }

    fn suspend(&self, place: Place<'_>, uuid: Uuid) -> Result<(), HvError> {
        self.to_vm(place, uuid, "suspend", |world, guest, host| {
            let vm = world.guests[guest].at[host].vm.as_mut();
            let vm = vm.filter(|vm| vm.state != RunState::Off);
            vm.ok_or_else(|| HvError::refused("cannot suspend", "it is off"))?.state =
                RunState::Paused;
            Ok(())
        })
    }

    fn destroy(&self, place: Place<'_>, uuid: Uuid) -> Result<(), HvError> {
        self.to_vm(place, uuid, "destroy", |world, guest, host| {
            world.destroy(guest, host);
            Ok(())
        })
    }

    fn undefine(&self, place: Place<'_>, uuid: Uuid) -> Result<(), HvError> {
        self.to_vm(place, uuid, "undefine", |world, guest, host| {
            world.guests[guest].undefine(host);
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
            Ok(key.map(|key| (key, is_open(world, host, &name))))
        });
        let found = found.map_err(|_| not_active(pool))?;
        let gone = || StorageError::NoVolume(volume.to_string());
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
            let used = is_open(world, host, &name);
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
