// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the interposer can be told.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::access::{Authority, Polkit};

/// How a client that is not root proves that it may connect. Names and meaning are
/// those of `auth_unix_rw` and `auth_unix_ro` in libvirt's own configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// The socket's mode alone decides.
    None,
    /// polkit decides.
    Polkit,
}

/// Whether a socket is for changing things or for looking only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `virtstoraged-sock`.
    ReadWrite,
    /// `virtstoraged-sock-ro`.
    ReadOnly,
}

/// One of the two sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// Where libvirt's own daemon listens now.
    pub upstream: PathBuf,
    /// Who is let in.
    pub auth: Auth,
}

/// All of it. [`Config::new`] has libvirt's defaults.
#[derive(Debug, Clone)]
pub struct Config {
    /// The read-write socket.
    pub rw: Side,
    /// The read-only socket.
    pub ro: Side,
    /// How many clients at once; a tenth of the places is kept for root. More wait.
    pub max_clients: usize,
    /// How many of one user that is not root; more are turned away.
    pub max_user_clients: usize,
    /// How many clients that have not authenticated are talked to at once.
    pub max_anonymous_clients: usize,
    /// How many calls of one client are worked on at once.
    pub max_client_requests: usize,
    /// How long a client may be silent before it starts to authenticate.
    pub auth_timeout: Duration,
    /// How long a frame that has begun may take, of a client that has not authenticated or that
    /// only reads.
    pub frame_timeout: Duration,
    /// How much memory the frames of all users take who are not root; one user has a quarter of it.
    pub frame_memory: usize,
    /// How many threads wait for the driver at once for users who are not root; one user has a quarter of them. Where it
    /// hangs they do, and the others have to be left for all else.
    pub driver_threads: usize,
    /// How long upstream is waited for.
    pub upstream: Patience,
    /// Where libvirt's daemons have their configuration, which says whether they ask about each object.
    pub libvirt: PathBuf,
    /// Who is asked then.
    pub authority: Arc<dyn Authority>,
}

/// How long upstream is waited for before a client hears that it does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Until a connection to it stands, where a call of ours can do without.
    pub connect: Duration,
    /// Until a connection to it stands that a client's call needs. A daemon that is starting
    /// answers when it is up; a client that sends keep-alives gives up after half a minute.
    pub start: Duration,
    /// Until it answers a call of our own.
    pub answer: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            connect: Duration::from_secs(5),
            start: Duration::from_secs(20),
            answer: Duration::from_secs(20),
        }
    }
}

impl Config {
    /// libvirt's defaults in front of daemons at these two paths.
    #[must_use]
    pub fn new(upstream_rw: impl Into<PathBuf>, upstream_ro: impl Into<PathBuf>) -> Self {
        let side = |upstream| Side { upstream, auth: Auth::Polkit };
        Config {
            rw: side(upstream_rw.into()),
            ro: side(upstream_ro.into()),
            max_clients: 5000,
            max_user_clients: 100,
            max_anonymous_clients: 20,
            max_client_requests: 5,
            auth_timeout: Duration::from_secs(30),
            frame_timeout: Duration::from_secs(10),
            frame_memory: 132 << 20,
            driver_threads: 256,
            upstream: Patience::default(),
            libvirt: "/etc/libvirt".into(),
            authority: Arc::new(Polkit::default()),
        }
    }

    /// The settings of one socket.
    #[must_use]
    pub fn side(&self, access: Access) -> &Side {
        match access {
            Access::ReadWrite => &self.rw,
            Access::ReadOnly => &self.ro,
        }
    }
}
