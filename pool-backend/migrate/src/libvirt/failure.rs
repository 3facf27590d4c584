// SPDX-License-Identifier: LGPL-2.1-or-later
//! What libvirt's library says of a call that failed, before it is said of which host.
//!
//! libvirt gives each error the part of it where it arose. One of the part that carries messages is no host's
//! answer: a connection broke, this one or one between two of that host's daemons.

use virt::error::{Error, ErrorDomain, ErrorNumber};

use crate::hypervisor::{HvError, Place};

/// What it says of a call that could not be sent, since the other end had closed the connection before
/// (`virNetClientSendInternal` in libvirt's `virnetclient.c`). The error has no number of its own.
const CLOSED: &str = "client socket is closed";

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The question was not even sent on.
    NotSent(String),
    /// A connection broke before the answer.
    Broken(String),
    /// The answer, or what stands for it.
    Answer(HvError),
}

impl Failure {
    /// libvirt's error at `what`.
    pub(super) fn of(what: &str, error: &Error) -> Self {
        let reason = error.message();
        let carried = error.domain() == ErrorDomain::Rpc.into();
        // Its server's own words to a client, as "authentication failed", are an answer.
        let server =
            [ErrorNumber::AuthFailed, ErrorNumber::AuthCancelled, ErrorNumber::AccessDenied];
        let answer = server.iter().any(|code| error.code() == (*code).into());
        match carried && !answer {
            true if reason.contains(CLOSED) => Self::NotSent(reason.to_owned()),
            true => Self::Broken(reason.to_owned()),
            false => Self::refused(what, reason),
        }
    }

    /// A refusal of `what`.
    pub(super) fn refused(what: &str, reason: impl ToString) -> Self {
        Self::Answer(HvError::refused(what, reason))
    }

    /// There is nothing to do `what` with.
    pub(super) fn gone(what: &str) -> Self {
        Self::Answer(HvError::gone(what))
    }

    /// The same, of that host. An error of a connection that broke is no answer of the host's.
    pub(super) fn at(self, place: Place<'_>, alive: bool) -> HvError {
        match self {
            Self::NotSent(reason) | Self::Broken(reason) => unreachable(place, reason),
            Self::Answer(HvError::Refused { reason, .. }) if !alive => unreachable(place, reason),
            Self::Answer(error) => error,
        }
    }
}

fn unreachable(place: Place<'_>, reason: String) -> HvError {
    HvError::Unreachable { place: place.to_string(), reason }
}

#[cfg(test)]
mod tests {
    use virt::connect::Connect;

    use super::*;

    #[test]
    fn an_error_of_a_connection_that_broke_is_no_answer() {
        let refused = Failure::refused("cannot look for the VM", "internal error");
        let unreachable = |reason: &str| unreachable(Place::Here, reason.into());
        assert!(matches!(refused.clone().at(Place::Here, true), HvError::Refused { .. }));
        assert_eq!(refused.at(Place::Here, false), unreachable("internal error"));
        for broken in
            [Failure::Broken("End of file".into()), Failure::NotSent("End of file".into())]
        {
            assert_eq!(broken.at(Place::Here, true), unreachable("End of file"));
        }
        let cancelled = Failure::Answer(HvError::Cancelled);
        assert_eq!(cancelled.at(Place::Here, false), HvError::Cancelled);
        let gone = Failure::gone("cannot find the VM").at(Place::Here, false);
        assert!(matches!(gone, HvError::Gone { .. }) && !gone.is_out_of_reach());
    }

    /// No daemon listens there: what carries messages says so.
    #[test]
    fn a_host_without_a_daemon_is_out_of_reach() {
        let uri = "qemu+unix:///system?socket=/no/such/socket";
        let error = Connect::open(Some(uri)).err().unwrap();
        assert!(matches!(Failure::of("cannot connect", &error), Failure::Broken(_)), "{error}");
    }

    #[test]
    fn what_is_not_there_is_an_answer() {
        let _alone = super::super::tests::the_test_driver();
        let connection = Connect::open(Some("test:///default")).unwrap();
        let error = connection.lookup_domain_by_name("nobody").unwrap_err();
        assert!(matches!(Failure::of("cannot look", &error), Failure::Answer(_)));
    }
}
