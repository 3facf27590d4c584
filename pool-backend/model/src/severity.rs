// SPDX-License-Identifier: LGPL-2.1-or-later
//! How much an event matters.

use std::fmt;
use std::str::FromStr;

/// How much an event matters, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Growth, and the course of what was asked for.
    Info,
    /// A VM moves, or something is well again.
    Notice,
    /// Something will go wrong unless a person looks at it.
    Warning,
    /// A VM stands still, or data is in danger.
    Critical,
}

impl Severity {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Info, Self::Notice, Self::Warning, Self::Critical];

    /// The severity of an event, by the name of its D-Bus signal; `kind` is that of a move that failed. An event of a
    /// newer version, which is not known here, is a warning.
    #[must_use]
    pub fn of(signal: &str, kind: Option<&str>) -> Self {
        match signal {
            "PoolStarted" | "PoolStopped" | "VolumeCreated" | "VolumeDeleted" | "VolumeGrown"
            | "MoveProgress" => Self::Info,
            "SpaceAvailable" | "Resumed" | "PeerReady" | "MoveStarted" | "MoveFinished" => {
                Self::Notice
            }
            "SpaceExhausted" | "Damage" | "RunsTwice" => Self::Critical,
            // A person has just done it.
            "MoveFailed" if kind == Some("settled") => Self::Notice,
            // It does not end by itself.
            "MoveFailed" if matches!(kind, Some("open" | "abandoned")) => Self::Critical,
            _ => Self::Warning,
        }
    }

    /// In a word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Severity {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|severity| severity.word() == word);
        found.ok_or_else(|| format!("'{}' is no severity", word.escape_debug()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_severities_are_the_same() {
        for severity in Severity::ALL {
            assert_eq!(severity.word().parse(), Ok(severity));
        }
        assert!("loud".parse::<Severity>().is_err());
        assert!(Severity::ALL.is_sorted());
    }

    #[test]
    fn a_move_that_does_not_end_is_critical() {
        let kinds = ["refused", "stayed", "open", "abandoned", "settled"];
        use Severity::{Critical, Notice, Warning};
        let found = kinds.map(|kind| Severity::of("MoveFailed", Some(kind)));
        assert_eq!(found, [Warning, Warning, Critical, Critical, Notice]);
        assert_eq!(Severity::of("Later", None), Warning);
    }
}
