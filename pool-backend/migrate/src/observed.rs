// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a look at both sides of a move can show.

/// How a VM is on one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vm {
    /// Not asked, or the answer was an error.
    Unknown,
    /// That host does not answer at all.
    Unreachable,
    /// It is not known there.
    Gone,
    /// It is defined there and not active.
    Off,
    /// It arrives there; or, here, libvirt left it paused for the migration.
    Arriving,
    /// It is paused.
    Paused,
    /// It ran, and stands still since: after an I/O error or a crash, or because its guest sleeps.
    Halted,
    /// It runs.
    Running,
}

impl Vm {
    /// Whether its disks are in use there.
    pub(crate) fn is_active(self) -> bool {
        matches!(self, Self::Arriving | Self::Paused | Self::Halted | Self::Running)
    }

    pub(crate) fn is_known(self) -> bool {
        !matches!(self, Self::Unknown | Self::Unreachable)
    }

    /// Whether it runs, or did until something other than a person stopped it.
    pub(crate) fn runs(self) -> bool {
        matches!(self, Self::Halted | Self::Running)
    }
}

/// What libvirt here is at for the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Not asked, or the answer was an error.
    Unknown,
    /// Nothing.
    None,
    /// A migration away from here.
    Move,
    /// Something else.
    Other,
}

/// What one look at both sides gives. What no decision depends on in a phase is not looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Observed {
    /// The VM here.
    pub here: Vm,
    /// Whether it is off here because its guest, a person or a crash ended it.
    pub ended: bool,
    /// Whether it is off here and libvirt has forgotten why: it went, or ran on and ended.
    pub forgotten: bool,
    /// Whether this host was started anew since the move began.
    pub booted: bool,
    /// What libvirt here is at for it.
    pub work: Work,
    /// The VM there.
    pub there: Vm,
    /// The same as `ended`, for the VM there.
    pub ended_there: bool,
    /// Whether it is defined there.
    pub persistent_there: bool,
    /// Whether the VM there has the very volumes that the move made.
    pub own: bool,
    /// Whether the VM there has all disks that were copied.
    pub fits: bool,
    /// A disk of the VM there that was not copied, though it is a volume here.
    pub strange: Option<String>,
    /// The next disk whose volume is to go: there when it stayed, here when it arrived.
    pub left: Option<usize>,
    /// Why a volume here cannot go.
    pub kept: Option<String>,
    /// Why something is not known.
    pub problem: String,
}

impl Observed {
    /// Before anything was asked.
    pub(crate) fn nothing() -> Self {
        Self {
            here: Vm::Unknown,
            ended: false,
            forgotten: false,
            booted: false,
            work: Work::Unknown,
            there: Vm::Unknown,
            ended_there: false,
            persistent_there: false,
            own: false,
            fits: false,
            strange: None,
            left: None,
            kept: None,
            problem: String::new(),
        }
    }
}
