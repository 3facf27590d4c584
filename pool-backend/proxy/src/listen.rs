// SPDX-License-Identifier: LGPL-2.1-or-later
//! Where the listening sockets come from: systemd, or a path.

use std::fs::{self, Permissions};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{env, io};

use tokio::net::UnixListener;

use crate::config::Access;

/// Why there is nothing to listen on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// systemd passed a socket under a name that says nothing to us.
    #[error("systemd passed a socket named '{0}'; the names are 'rw' and 'ro'")]
    UnknownName(String),
    /// What systemd passed is not usable.
    #[error("the socket '{name}' that systemd passed cannot be used: {source}")]
    Passed {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A path cannot be listened on.
    #[error("cannot listen on {}: {source}", path.display())]
    Bind {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A socket and what it is for.
#[derive(Debug)]
pub struct Listener {
    /// Whether its clients may change anything.
    pub access: Access,
    /// The socket.
    pub socket: UnixListener,
}

impl Listener {
    /// Where clients find it.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        Some(self.socket.local_addr().ok()?.as_pathname()?.to_owned())
    }
}

/// The first descriptor that systemd passes.
const LISTEN_FDS_START: RawFd = 3;

/// The sockets that systemd passed to this process; none if it passed none. To be
/// called once, inside the runtime that will serve them.
///
/// # Errors
/// When systemd passed something else than was expected.
pub fn from_systemd() -> Result<Vec<Listener>, ListenError> {
    let var = |name| env::var(name).unwrap_or_default();
    if var("LISTEN_PID").parse() != Ok(std::process::id()) {
        return Ok(Vec::new());
    }
    let count = var("LISTEN_FDS").parse::<RawFd>().unwrap_or(0);
    let names = var("LISTEN_FDNAMES");
    let mut names = names.split(':');
    (LISTEN_FDS_START..LISTEN_FDS_START + count)
        .map(|fd| {
            // SAFETY: systemd's protocol gives these descriptors to this process, the
            // pid was compared, and this function is their only taker.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            passed(fd, names.next().unwrap_or("unknown"))
        })
        .collect()
}

fn passed(fd: OwnedFd, name: &str) -> Result<Listener, ListenError> {
    let access = match name {
        "rw" => Access::ReadWrite,
        "ro" => Access::ReadOnly,
        other => return Err(ListenError::UnknownName(other.to_owned())),
    };
    let usable = || {
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        let socket = std::os::unix::net::UnixListener::from(fd);
        socket.set_nonblocking(true)?;
        UnixListener::from_std(socket)
    };
    match usable() {
        Ok(socket) => Ok(Listener { access, socket }),
        Err(source) => Err(ListenError::Passed { name: name.to_owned(), source }),
    }
}

/// Listens on a path, in place of whatever socket was left there. Others than the
/// owner get in only by the mode given, from the first moment on.
///
/// # Errors
/// When that is not possible.
pub fn bind(path: &Path, access: Access, mode: u32) -> Result<Listener, ListenError> {
    let listen = || {
        // Under another name first: nobody connects before the mode is set.
        let fresh = path.with_extension("new");
        let _ = fs::remove_file(&fresh);
        let socket = UnixListener::bind(&fresh)?;
        fs::set_permissions(&fresh, Permissions::from_mode(mode))?;
        fs::rename(&fresh, path)?;
        Ok(socket)
    };
    match listen() {
        Ok(socket) => Ok(Listener { access, socket }),
        Err(source) => Err(ListenError::Bind { path: path.to_owned(), source }),
    }
}
