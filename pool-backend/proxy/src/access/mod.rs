// SPDX-License-Identifier: LGPL-2.1-or-later
//! Access control for each object: where libvirt's daemon asks polkit about each pool and volume
//! (`access_drivers = ["polkit"]`), so do we about ours, in the same words.
//!
//! Which permissions a call needs is in the table of procedures, and is what libvirt asks; the
//! objects are found by `crate::guarded`. The question is about the client, or about the
//! identity that root has set instead: user, process and start time. Root is not asked about, for
//! polkit never says no to it, and a VM must start also when polkit does not run. For all others, no
//! answer is a no.
//!
//! Whether libvirt's daemon asks is read in its own configuration for each client that opens its
//! connection. It reads that when it starts, so that a change holds here a little before.

mod authority;
mod caller;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use virtnotify_program::LibvirtSettings;
use virtnotify_wire::{ErrorCode, ErrorDomain, Permission, RemoteError, StoragePool};

use crate::rarely::Rarely;

pub use authority::{Asked, Authority, Polkit, Question, Unanswered};
pub use caller::Caller;

/// The drivers of libvirt whose daemons ask who may open a connection, under the names that rules know.
const DRIVERS: [&str; 12] = [
    "bhyve",
    "CH",
    "interface",
    "LXC",
    "network",
    "nodedev",
    "NWFilter",
    "QEMU",
    "secret",
    "storage",
    "vz",
    "Xen",
];

/// Whether polkit decides about each object.
#[derive(Debug)]
pub(crate) struct AccessControl {
    /// Configurations of libvirt's daemons: one that asks is enough.
    files: Vec<PathBuf>,
    authority: Arc<dyn Authority>,
    unanswered: Rarely,
    unreadable: Rarely,
}

impl AccessControl {
    /// As the daemon is told in whose place these sockets are, of those whose configuration is in a
    /// directory. Where that cannot be seen, one that asks is enough.
    pub(crate) fn new(
        directory: &Path,
        sockets: &[PathBuf],
        authority: Arc<dyn Authority>,
    ) -> Arc<Self> {
        let is = |socket: &PathBuf, start| {
            socket.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start))
        };
        let all = |start| !sockets.is_empty() && sockets.iter().all(|socket| is(socket, start));
        let names: &[&str] = match (all("virtstoraged-sock"), all("libvirt-sock")) {
            (true, _) => &["virtstoraged.conf"],
            (_, true) => &["libvirtd.conf"],
            _ => &["virtstoraged.conf", "libvirtd.conf"],
        };
        let files = names.iter().map(|name| directory.join(name)).collect();
        let (unanswered, unreadable) = (Rarely::default(), Rarely::default());
        Arc::new(AccessControl { files, authority, unanswered, unreadable })
    }

    /// Whether libvirt asks. May block.
    pub(crate) fn asks(&self) -> bool {
        self.files.iter().any(|path| match LibvirtSettings::read(path) {
            // "none" is libvirt's driver that allows everything; with an unknown one it does not start.
            Ok(settings) => settings.list("access_drivers").iter().any(|driver| *driver != "none"),
            Err(error) => {
                if let Some(left_out) = self.unreadable.now() {
                    let path = path.display();
                    tracing::error!(%error, left_out, "cannot read {path}: polkit is asked");
                }
                true
            }
        })
    }
}

/// What a question is about.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Object {
    /// The connection.
    Connection,
    /// A pool.
    Pool(StoragePool),
    /// A volume; one that is to be made has no key yet.
    Volume { pool: StoragePool, name: String, key: Option<String> },
}

/// What polkit said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Yes,
    No,
    /// Nothing, and will not of the next question either.
    NoAnswer,
}

/// Asks about what one client does.
pub(crate) struct Guard {
    control: Arc<AccessControl>,
    /// What libvirt calls the driver that the client has opened.
    driver: String,
    /// None when root has set an identity without a process: libvirt denies that as well.
    caller: Mutex<Option<Caller>>,
}

impl Guard {
    /// For a connection to a driver, by what libvirt calls its type.
    pub(crate) fn new(control: Arc<AccessControl>, kind: &str, caller: Option<Caller>) -> Self {
        let known = DRIVERS.iter().find(|driver| driver.eq_ignore_ascii_case(kind));
        let driver = known.map_or(kind, |driver| driver).to_owned();
        Guard { control, driver, caller: Mutex::new(caller) }
    }

    /// Sets for whom calls are made from now on.
    pub(crate) fn set_caller(&self, caller: Option<Caller>) {
        *self.caller.lock().unwrap_or_else(PoisonError::into_inner) = caller;
    }

    /// Whether the client may open the connection.
    ///
    /// # Errors
    /// When not.
    pub(crate) async fn opens(&self, permissions: &[Permission]) -> Result<(), RemoteError> {
        // The others do not ask.
        if !DRIVERS.contains(&self.driver.as_str()) {
            return Ok(());
        }
        self.needs(permissions, &Object::Connection).await
    }

    /// Asks for each of these permissions.
    ///
    /// # Errors
    /// When one is not given.
    pub(crate) async fn needs(
        &self,
        permissions: &[Permission],
        object: &Object,
    ) -> Result<(), RemoteError> {
        for permission in permissions {
            if self.verdict(*permission, object).await != Verdict::Yes {
                return Err(self.denied());
            }
        }
        Ok(())
    }

    /// Asks for a permission.
    pub(crate) async fn verdict(&self, permission: Permission, object: &Object) -> Verdict {
        let caller = *self.caller.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(caller) = caller else { return Verdict::No };
        if caller.is_root() {
            return Verdict::Yes;
        }
        let details = object.details(&self.driver);
        let question = Question { caller, action: permission.action(), details };
        match self.control.authority.ask(&question).await {
            Ok(true) => Verdict::Yes,
            Ok(false) => Verdict::No,
            Err(error) => {
                if let Some(left_out) = self.control.unanswered.now() {
                    let Question { action, .. } = question;
                    tracing::error!(%error, left_out, "polkit does not answer, so {action} is denied");
                }
                Verdict::NoAnswer
            }
        }
    }

    /// libvirt's error; the reason is in the log alone.
    pub(crate) fn denied(&self) -> RemoteError {
        let detail = format!("'{}' denied access", self.driver);
        RemoteError::of(ErrorDomain::ACCESS, ErrorCode::ACCESS_DENIED, detail)
    }
}

impl Object {
    /// The details that libvirt gives.
    fn details(&self, driver: &str) -> Vec<(&'static str, String)> {
        let mut details = vec![("connect_driver", driver.to_owned())];
        if let Object::Pool(pool) | Object::Volume { pool, .. } = self {
            details.push(("pool_name", pool.name.clone()));
            details.push(("pool_uuid", pool.uuid.to_string()));
        }
        if let Object::Volume { name, key, .. } = self {
            details.push(("vol_name", name.clone()));
            details.extend(key.clone().map(|key| ("vol_key", key)));
        }
        details
    }
}

#[cfg(test)]
mod tests;
