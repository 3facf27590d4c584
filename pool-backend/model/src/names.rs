// SPDX-License-Identifier: LGPL-2.1-or-later
//! Names that are safe wherever they go: a path, a device-mapper name, an LVM argument.
//!
//! A name is checked once, where it enters, and is a type of its own from there on.
//! The characters allowed are LVM's own (`man lvm`, "VALID NAMES"): letters, digits and
//! `+ _ . -`, not starting with a hyphen, never `.` or `..`.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Why a name is refused. Long names are cut in the sentence.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum NameError {
    /// The empty name.
    #[error("a {kind} needs a name")]
    Empty {
        /// What was to be named.
        kind: &'static str,
    },
    /// More characters than the device mapper has room for.
    #[error("the {kind} name '{start}…' is too long: {length} characters, {limit} at most")]
    TooLong {
        /// What was to be named.
        kind: &'static str,
        /// How the name starts.
        start: String,
        /// How long it is, in characters.
        length: usize,
        /// How long it may be.
        limit: usize,
    },
    /// A character or form that LVM or a path would misread.
    #[error(
        "'{name}' cannot be a {kind} name: letters, digits and + _ . - are possible, \
         not starting with a hyphen, and neither '.' nor '..'"
    )]
    Characters {
        /// What was to be named.
        kind: &'static str,
        /// The name, with control characters escaped.
        name: String,
    },
}

fn check(kind: &'static str, name: &str, limit: usize) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { kind });
    }
    let length = name.chars().count();
    if length > limit {
        let start = name.chars().take(20).collect::<String>().escape_debug().to_string();
        return Err(NameError::TooLong { kind, start, length, limit });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "+_.-".contains(c);
    if !name.chars().all(allowed) || name.starts_with('-') || name == "." || name == ".." {
        return Err(NameError::Characters { kind, name: name.escape_debug().to_string() });
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $limit:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(String);

        impl $type {
            /// The most characters such a name can have.
            pub const LIMIT: usize = $limit;

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                check($kind, name, Self::LIMIT)?;
                Ok(Self(name.to_owned()))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

// A device-mapper name has 127 characters at most (`DM_NAME_LEN` in <linux/dm-ioctl.h>, with
// its NUL). A volume's is `notify:POOL:VOLUME`: 7 + 50 + 1 + 69 = 127. The colon is not
// allowed in either part, so no two volumes make the same name.
name! {
    /// The name of a pool: 50 characters at most.
    PoolName, "pool", 50
}
name! {
    /// The name of a volume: 69 characters at most.
    VolumeName, "volume", 69
}
name! {
    /// The name of an LVM volume group: 127 characters at most (`NAME_LEN` of LVM, with its NUL).
    VgName, "volume group", 127
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_names_are_refused() {
        let long = "x".repeat(300);
        let bad =
            ["", ".", "..", "-a", "a b", "a/b", "../x", "a\nb", "a%s;", "ä", "a:b", "a\0b", &long];
        for name in bad {
            assert!(VolumeName::from_str(name).is_err(), "{name:?}");
            assert!(PoolName::from_str(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn good_names_stay_as_they_are() {
        for name in
            ["disk0", "a-b", "a--b", "vm.raw", ".hidden", "+", "_x9", "%s".trim_matches('%')]
        {
            assert_eq!(VolumeName::from_str(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn the_limit_is_exact() {
        assert!(PoolName::from_str(&"p".repeat(50)).is_ok());
        let error = PoolName::from_str(&"p".repeat(51)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the pool name 'pppppppppppppppppppp…' is too long: 51 characters, 50 at most"
        );
        assert_eq!(format!("notify:{}:{}", "p".repeat(50), "v".repeat(69)).len(), 127);
    }
}
