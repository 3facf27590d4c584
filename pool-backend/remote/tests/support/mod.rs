// SPDX-License-Identifier: LGPL-2.1-or-later
//! A daemon that can end at any moment.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// What stands between a client and the daemon: it can end as a process does, with all connections.
pub struct Daemon {
    /// Where it listens.
    pub socket: PathBuf,
    behind: PathBuf,
    ended: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<UnixStream>>>,
}

impl Daemon {
    pub fn start(socket: PathBuf, behind: PathBuf) -> Self {
        let daemon = Self { socket, behind, ended: Arc::default(), open: Arc::default() };
        daemon.up();
        daemon
    }

    /// It listens.
    pub fn up(&self) {
        self.ended.store(false, Ordering::SeqCst);
        let listener = UnixListener::bind(&self.socket).unwrap();
        let (behind, ended) = (self.behind.clone(), Arc::clone(&self.ended));
        let open = Arc::clone(&self.open);
        std::thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let server = UnixStream::connect(&behind).unwrap();
                open.lock()
                    .unwrap()
                    .extend([client.try_clone(), server.try_clone()].map(Result::unwrap));
                relay(client.try_clone().unwrap(), server.try_clone().unwrap());
                relay(server, client);
            }
        });
    }

    /// It is killed.
    pub fn down(&self) {
        self.ended.store(true, Ordering::SeqCst);
        // The one who accepts sees it.
        drop(UnixStream::connect(&self.socket).unwrap());
        std::fs::remove_file(&self.socket).unwrap();
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn relay(mut from: UnixStream, mut to: UnixStream) {
    std::thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
}
