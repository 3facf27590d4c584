// SPDX-License-Identifier: LGPL-2.1-or-later
//! A host that lives, is killed or loses its power, and lives again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use virtnotify_model::{Backend, Bytes, ChunkSize, PoolSpec, VolumeInfo};

use super::model::{BLOCKS, Model, Seen, Value};
use super::{Plan, guest, operator, trouble};
use crate::names::META_LV;
use crate::repair::{Repair, Severity};
use crate::runtime::simulated::{self, Failure, Host};
use crate::target::DeviceId;
use crate::testing::{FakeLvm, FakeTarget, SECTOR, device_of};
use crate::tests::house::{self, House, Sizes, eventually, pool};

/// The size of a chunk, and of an extent.
pub(super) const CHUNK: u64 = 64 << 10;
const EXTENT: Bytes = Bytes(256 << 10);
/// How often threads may be let run without a guest or an operator that gets on.
const PATIENCE: u64 = 200_000;
/// How large the devices of the group are: less than all volumes want.
const DEVICES: [Bytes; 2] = [Bytes::mib(5), Bytes::mib(4)];
/// So few generations that they end in many a life, and are counted anew after it.
const SIZES: Sizes =
    Sizes { metadata: Bytes::mib(2), headroom: Bytes(512 << 10), last_generation: 12 };
/// Guests with two disks each, and operators.
const GUESTS: usize = 3;
const OPERATORS: usize = 2;

/// What the threads of a simulated host use.
pub(super) struct World {
    pub(super) house: RefCell<House>,
    pub(super) model: RefCell<Model>,
    random: RefCell<fastrand::Rng>,
    pub(super) plan: Plan,
    /// How many things guests and operators have done.
    pub(super) steps: Cell<u64>,
    /// Something fails now, or may have.
    pub(super) troubled: Cell<bool>,
    wrong: RefCell<Option<String>>,
    now: Cell<Duration>,
    /// Of all lives so far.
    trace: Cell<(u64, u64)>,
}

/// The pool.
fn spec() -> PoolSpec {
    PoolSpec { chunk: ChunkSize::new(Bytes(CHUNK)).unwrap(), ..house::spec() }
}

/// Where in a chunk a block lies.
pub(super) fn offset(block: u64) -> u64 {
    if block.is_multiple_of(BLOCKS) { 0 } else { CHUNK - SECTOR as u64 }
}

impl World {
    pub(super) fn new(plan: Plan) -> Rc<Self> {
        let house = House::on(&DEVICES, EXTENT, SIZES);
        Rc::new(Self {
            house: RefCell::new(house),
            model: RefCell::default(),
            random: RefCell::new(fastrand::Rng::with_seed(plan.seed)),
            plan,
            steps: Cell::default(),
            troubled: Cell::default(),
            wrong: RefCell::default(),
            now: Cell::default(),
            trace: Cell::default(),
        })
    }

    pub(super) fn chance(&self, one_in: u64) -> bool {
        self.random.borrow_mut().u64(..one_in) == 0
    }

    pub(super) fn below(&self, end: u64) -> u64 {
        self.random.borrow_mut().u64(..end.max(1))
    }

    pub(super) fn pause(&self, most: Duration) {
        let nanos = self.below(u64::try_from(most.as_nanos()).unwrap_or(u64::MAX));
        simulated::sleep(Duration::from_nanos(nanos));
    }

    pub(super) fn engine(&self) -> Arc<crate::engine::Engine> {
        self.house.borrow().engine.clone()
    }

    pub(super) fn target(&self) -> Arc<FakeTarget> {
        self.house.borrow().target.clone()
    }

    pub(super) fn lvm(&self) -> Arc<FakeLvm> {
        self.house.borrow().lvm.clone()
    }

    /// Nothing that is done now counts: the host is at its end.
    pub(super) fn is_over(&self) -> bool {
        self.lvm().power().is_gone()
    }

    /// Something is not as it should be. What is seen when the host is at its end counts after its
    /// next start.
    pub(super) fn wrong(&self, what: String) {
        if !self.is_over() {
            self.wrong.borrow_mut().get_or_insert(what);
        }
    }

    pub(super) fn did_a_step(&self) {
        self.steps.set(self.steps.get() + 1);
    }

    /// A volume that has a device.
    pub(super) fn find(&self, name: &str) -> Option<(VolumeInfo, DeviceId)> {
        let info = self.engine().volume(&pool(), &name.parse().unwrap()).ok()?;
        let device = device_of(info.uuid);
        self.target().has(&device).then_some((info, device))
    }

    /// What there is of a name.
    pub(super) fn see(&self, name: &str) -> Seen {
        let (info, device) = self.find(name)?;
        let target = self.target();
        let chunks = info.capacity.0.div_ceil(CHUNK);
        let read = |block: u64| target.read_at(&device, block / BLOCKS, offset(block));
        let value = |sector: [u8; SECTOR]| Value::from_le_bytes(sector[..8].try_into().unwrap());
        Some((chunks, (0..chunks * BLOCKS).map(|block| value(read(block))).collect()))
    }

    /// Waits until the pool can be changed, and its devices are what the metadata says.
    pub(super) fn wait_usable(&self) {
        for _ in 0..600 {
            let Ok(shared) = self.engine().started(&pool()) else { return };
            if shared.core().usable().is_ok() && !crate::pool::settle::is_needed(&shared) {
                return;
            }
            simulated::sleep(Duration::from_secs(1));
            if self.is_over() {
                return;
            }
        }
        self.wrong("the pool stays unusable".into());
    }

    /// Starts the pool and looks at everything; then guests and operators begin.
    fn wake_up(self: &Rc<Self>) {
        if let Err(error) = self.engine().start_pool(&spec()) {
            return self.wrong(format!("the pool cannot be started: {error}"));
        }
        let target = self.target();
        target.write_to(self.lvm().clone());
        let names: Vec<_> = self.engine().volumes(&pool()).unwrap_or_default();
        let names: Vec<_> = names.iter().map(|volume| volume.name.to_string()).collect();
        let mut model = self.model.borrow().clone();
        let whole = model.restart(&names, &|name| self.see(name));
        if self.is_over() {
            return;
        }
        self.model.replace(model);
        if let Err(what) = whole {
            return self.wrong(format!("after a restart: {what}"));
        }
        self.look();
        for guest in 0..GUESTS {
            let world = self.clone();
            simulated::spawn(&format!("guest {guest}"), move || guest::live(&world, guest));
        }
        for number in 0..OPERATORS {
            let world = self.clone();
            let work = move || operator::live(&world, number);
            simulated::spawn(&format!("operator {number}"), work);
        }
        if self.plan.trouble {
            let world = self.clone();
            simulated::spawn("trouble", move || trouble::live(&world));
        }
    }

    /// All that is counted along is what it would be if it were counted now, and the kernel has what
    /// the metadata has.
    fn look(&self) {
        if !self.is_over() {
            let house = self.house.borrow();
            house.check();
            self.check_file();
        }
    }

    /// The checker of `virt-notify check` finds nothing.
    fn check_file(&self) {
        let found = Repair::check(&*self.engine(), &spec().vg);
        match found {
            Ok(found) if found.worst() != Some(Severity::Damage) => {}
            Ok(found) => self.wrong(format!("check: {:?}", found.findings)),
            Err(error) => self.wrong(format!("check: {error}")),
        }
    }

    /// One life of the host, until it is killed or all steps are done.
    pub(super) fn live(self: &Rc<Self>) -> Result<(), String> {
        let (seed, rarely) = (self.below(u64::MAX), 1 << self.below(7));
        let host = Host::new(seed, rarely + 1, self.now.get());
        let (killed, keep) = (self.chance(2), self.below(5));
        self.lvm().power().cut_after(match self.below(4) {
            0 => self.below(100),
            _ => self.below(4000),
        });
        let world = self.clone();
        host.spawn("start", move || world.wake_up());
        let (done, since) = (Cell::new(self.steps.get()), Cell::new(host.trace().0));
        let over = || {
            if done.replace(self.steps.get()) < self.steps.get() {
                since.set(host.trace().0);
            } else if host.trace().0 - since.get() > PATIENCE {
                self.wrong(format!(
                    "nobody gets on: {}, {:?} {:?}",
                    host.waiting(),
                    self.model.borrow().under_way,
                    self.model.borrow().guests
                ));
            }
            self.wrong.borrow().is_some() || self.is_over() || self.steps.get() >= self.plan.steps
        };
        let ran = host.run(over);
        let (steps, trace) = host.trace();
        self.trace.set((self.trace.get().0 + steps, self.trace.get().1.rotate_left(1) ^ trace));
        self.now.set(simulated::now().unwrap_or_default());
        self.lvm().power().cut_after(0);
        drop(host);
        match ran {
            Err(Failure::Dead(why) | Failure::Stuck(why)) => return Err(why),
            Ok(()) => {}
        }
        if let Some(wrong) = self.wrong.borrow_mut().take() {
            return Err(wrong);
        }
        tracing::info!(killed, keep, "the host ends");
        let mut house = self.house.borrow_mut();
        house.target.heal();
        house.end(killed, seed, keep);
        house.restart();
        self.troubled.set(false);
        if !killed {
            self.model.borrow_mut().guests.clear();
        }
        Ok(())
    }

    /// The metadata LV.
    pub(super) fn metadata(&self) -> Arc<crate::testing::FakeDisk> {
        self.lvm().disk(META_LV)
    }

    /// How often threads were let run, and a number that is the same for the same run.
    pub(super) fn trace(&self) -> (u64, u64) {
        self.trace.get()
    }

    /// A last life in which all is deleted: nothing is left.
    pub(super) fn end(self: &Rc<Self>) -> Result<(), String> {
        let host = Host::new(1, 4, self.now.get());
        let world = self.clone();
        host.spawn("end", move || world.delete_all());
        let ran = host.run(|| self.wrong.borrow().is_some());
        drop(host);
        if let Err(Failure::Dead(why) | Failure::Stuck(why)) = ran {
            return Err(why);
        }
        self.wrong.borrow_mut().take().map_or(Ok(()), Err)
    }

    fn delete_all(&self) {
        if let Err(error) = self.engine().start_pool(&spec()) {
            return self.wrong(format!("the pool cannot be started: {error}"));
        }
        for volume in self.engine().volumes(&pool()).unwrap() {
            if let Err(error) = self.engine().delete_volume(&pool(), &volume.name) {
                self.wrong(format!("'{}' cannot be deleted: {error}", volume.name));
            }
        }
        let shared = self.engine().started(&pool()).unwrap();
        eventually("LVM moves nothing", || {
            // A start of the pool has LVM go on with it.
            shared.lvm.report(&spec().vg).is_ok() && !self.lvm().devices(|d| d.is_moving())
        });
        eventually("collected", || shared.core().is_collected() && shared.core().free.used() == 0);
        self.house.borrow().check();
        self.house.borrow().engine.halt();
    }
}
