// SPDX-License-Identifier: LGPL-2.1-or-later
//! libvirt's event loop, on a thread of its own, and what we listen to.

use std::os::raw::{c_char, c_int, c_void};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use tokio::sync::watch;
use tracing::error;
use virt::connect::Connect;
use virt::error::{Error, clear_error_callback};
use virt::event::{event_register_default_impl, event_run_default_impl};
use virt::sys;

use super::failure::Failure;

/// A broken loop must not take a CPU.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Starts the loop, once in a process, before any connection is opened: keepalive needs it too.
pub(super) fn start_loop() -> Result<(), Failure> {
    static STARTED: OnceLock<Result<(), Failure>> = OnceLock::new();
    STARTED.get_or_init(start).clone()
}

fn start() -> Result<(), Failure> {
    let what = "cannot start libvirt's event loop";
    // Errors are returned and logged by us; libvirt would print each to stderr as well.
    clear_error_callback();
    event_register_default_impl().map_err(|e| Failure::of(what, &e))?;
    let work = || loop {
        if let Err(failure) = event_run_default_impl() {
            error!("libvirt's event loop: {}", failure.message());
            thread::sleep(AFTER_FAILURE);
        }
    };
    let thread = thread::Builder::new().name("libvirt-events".into());
    thread.spawn(work).map(drop).map_err(|e| Failure::refused(what, e))
}

/// Makes `changes` change with each change of a VM: of its state, its devices or its metadata. Lasts as long as
/// the connection.
pub(super) fn subscribe(
    connection: &Connect,
    changes: &Arc<watch::Sender<u64>>,
) -> Result<(), Failure> {
    // SAFETY: libvirt documents that a callback of an event's type is cast to the generic one, and each of these is
    // of the type of the event that it is registered for.
    let (state, device, metadata) = unsafe {
        (
            std::mem::transmute::<StateCallback, Generic>(Some(state_changed)),
            std::mem::transmute::<DeviceCallback, Generic>(Some(device_changed)),
            std::mem::transmute::<MetadataCallback, Generic>(Some(metadata_changed)),
        )
    };
    for (id, callback) in [
        (sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, state),
        (sys::VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, device),
        (sys::VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, device),
        (sys::VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, metadata),
    ] {
        register(connection, id as c_int, callback, changes)?;
    }
    Ok(())
}

fn register(
    connection: &Connect,
    id: c_int,
    callback: Generic,
    changes: &Arc<watch::Sender<u64>>,
) -> Result<(), Failure> {
    let opaque = Arc::into_raw(Arc::clone(changes)).cast_mut().cast::<c_void>();
    // SAFETY: the connection is alive; `opaque` stays valid until `free` takes it back.
    let result = unsafe {
        sys::virConnectDomainEventRegisterAny(
            connection.as_ptr(),
            std::ptr::null_mut(),
            id,
            callback,
            opaque,
            Some(free),
        )
    };
    if result < 0 {
        // SAFETY: libvirt refused it, and so will never call `free`.
        unsafe { free(opaque) };
        let error = Error::last_error();
        return Err(Failure::of("cannot listen to changes of VMs", &error));
    }
    Ok(())
}

type Generic = sys::virConnectDomainEventGenericCallback;
type StateCallback = Option<
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void) -> c_int,
>;
type DeviceCallback =
    Option<unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *const c_char, *mut c_void)>;
type MetadataCallback = Option<
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, *const c_char, *mut c_void),
>;

unsafe extern "C" fn state_changed(
    _: sys::virConnectPtr,
    _: sys::virDomainPtr,
    _event: c_int,
    _detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    // SAFETY: `opaque` is that of `register`.
    unsafe { tell(opaque) };
    0
}

unsafe extern "C" fn device_changed(
    _: sys::virConnectPtr,
    _: sys::virDomainPtr,
    _alias: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: `opaque` is that of `register`.
    unsafe { tell(opaque) };
}

unsafe extern "C" fn metadata_changed(
    _: sys::virConnectPtr,
    _: sys::virDomainPtr,
    _kind: c_int,
    _namespace: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: `opaque` is that of `register`.
    unsafe { tell(opaque) };
}

unsafe fn tell(opaque: *mut c_void) {
    // SAFETY: it is the pointer that `register` handed over, and `free` has not run yet.
    let changes = unsafe { &*opaque.cast::<watch::Sender<u64>>() };
    changes.send_modify(|count| *count = count.wrapping_add(1));
}

unsafe extern "C" fn free(opaque: *mut c_void) {
    // SAFETY: it takes back what `register` made of an `Arc`, once.
    drop(unsafe { Arc::from_raw(opaque.cast::<watch::Sender<u64>>()) });
}

#[cfg(test)]
mod tests {
    use virt::domain::Domain;

    use super::*;

    /// Does something to the test driver's VM, and awaits that it is told.
    fn is_told(change: impl FnOnce(&Domain)) {
        start_loop().unwrap();
        let _alone = super::super::tests::the_test_driver();
        let connection = Connect::open(Some("test:///default")).unwrap();
        let (sender, mut receiver) = watch::channel(0);
        subscribe(&connection, &Arc::new(sender)).unwrap();
        change(&connection.lookup_domain_by_name("test").unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let told = async {
            tokio::time::timeout(Duration::from_secs(10), receiver.changed()).await.unwrap()
        };
        runtime.block_on(told).unwrap();
    }

    #[test]
    fn a_change_of_state_is_told() {
        is_told(|vm| vm.suspend().unwrap());
    }

    #[test]
    fn a_change_of_metadata_is_told() {
        let (kind, live) = (sys::VIR_DOMAIN_METADATA_TITLE, sys::VIR_DOMAIN_AFFECT_LIVE);
        is_told(|vm| vm.set_metadata(kind as i32, Some("web"), None, None, live).unwrap());
    }
}
