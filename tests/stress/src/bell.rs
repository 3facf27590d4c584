// SPDX-License-Identifier: LGPL-2.1-or-later
//! The notifier: a process of its own that turns the target's signal into a byte in a pipe, so that it
//! can be killed and stopped.

use std::io::{Read, Write, stdout};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Sender;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The signal.
pub const SIGNAL: i32 = 40;

/// What the notifier's process does, for ever.
pub fn be_it() -> Result<()> {
    signal_hook::low_level::pipe::register(SIGNAL, stdout().as_fd().try_clone_to_owned()?)?;
    stdout().write_all(b"r")?;
    stdout().flush()?;
    loop {
        std::thread::park();
    }
}

/// The notifier.
pub struct Bell(Child);

impl Bell {
    /// Starts it; each signal that it gets is told.
    pub fn start(rung: Sender<()>) -> Result<Self> {
        let own = std::env::current_exe()?;
        let mut child = Command::new(own).arg("bell").stdout(Stdio::piped()).spawn()?;
        let mut pipe = child.stdout.take().context("the notifier has no output")?;
        // From its first byte on it takes the signal.
        pipe.read_exact(&mut [0]).context("the notifier does not start")?;
        std::thread::spawn(move || {
            while pipe.read(&mut [0; 64]).is_ok_and(|length| length > 0) {
                if rung.send(()).is_err() {
                    break;
                }
            }
        });
        Ok(Self(child))
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Stops it: signals are kept for it.
    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    pub fn go_on(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.pid())?), signal)?)
    }

    /// Kills it.
    pub fn kill(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}
