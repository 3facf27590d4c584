// SPDX-License-Identifier: LGPL-2.1-or-later
//! Names that are safe wherever they go: a path, a device-mapper name, an LVM argument.
//!
//! A name is checked once, where it enters, and is a type of its own from there on.
//! The characters allowed are LVM's own (`man lvm`, "VALID NAMES"): letters, digits and
//! `+ _ . -`, not starting with a hyphen, never `.` or `..`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
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

/// Between the names of a volume and of its snapshot.
const AT: char = '@';

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

/// A volume's name, or a snapshot's: `VOLUME@SNAPSHOT`.
fn check_volume(kind: &'static str, name: &str, limit: usize) -> Result<(), NameError> {
    let Some((volume, snapshot)) = name.split_once(AT) else { return check(kind, name, limit) };
    check(kind, volume, limit)?;
    check("snapshot", snapshot, limit)?;
    // Both are plain now, so this looks at the length alone.
    check("snapshot", &name.replacen(AT, ".", 1), limit)
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $limit:literal, $check:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
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
                $check($kind, name, Self::LIMIT)?;
                Ok(Self(name.to_owned()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                name.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
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
    PoolName, "pool", 50, check
}
name! {
    /// The name of a volume, or of a snapshot of one (`VOLUME@SNAPSHOT`): 69 characters at most.
    VolumeName, "volume", 69, check_volume
}
name! {
    /// The name of a snapshot, without its volume's: 67 characters at most.
    SnapshotName, "snapshot", 67, check
}
name! {
    /// The name of an LVM volume group: 127 characters at most (`NAME_LEN` of LVM, with its NUL).
    VgName, "volume group", 127, check
}

impl VolumeName {
    /// The name of this volume's snapshot `name`.
    ///
    /// # Errors
    /// [`NameError::TooLong`]; when this is a snapshot already.
    pub fn at(&self, name: &SnapshotName) -> Result<Self, NameError> {
        format!("{self}{AT}{name}").parse()
    }

    /// The pool and the volume in `POOL/VOLUME`, with or without `/dev/notify/` in front; `None` for what has no slash.
    ///
    /// # Errors
    /// When one of them is no such name.
    #[must_use]
    pub fn in_path(path: &str) -> Option<Result<(PoolName, Self), NameError>> {
        let (pool, volume) = path.strip_prefix("/dev/notify/").unwrap_or(path).split_once('/')?;
        Some(pool.parse().and_then(|pool| Ok((pool, volume.parse()?))))
    }

    /// Of a snapshot's name: the names of its volume and of the snapshot alone.
    #[must_use]
    pub fn snapshot(&self) -> Option<(Self, SnapshotName)> {
        let (volume, snapshot) = self.0.split_once(AT)?;
        Some((Self(volume.to_owned()), SnapshotName(snapshot.to_owned())))
    }
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
    fn a_snapshot_is_named_after_its_volume() {
        let volume = VolumeName::from_str("disk0").unwrap();
        let snapshot = volume.at(&"mon".parse().unwrap()).unwrap();
        assert_eq!(snapshot.as_str(), "disk0@mon");
        assert_eq!(snapshot.snapshot(), Some((volume.clone(), "mon".parse().unwrap())));
        assert_eq!(volume.snapshot(), None);
        assert!(snapshot.at(&"tue".parse().unwrap()).is_err(), "a snapshot has none");
        for bad in ["@", "a@", "@a", "a@b@c", "a@-b", "a@.", "-a@b", "a@b/c"] {
            assert!(VolumeName::from_str(bad).is_err(), "{bad}");
        }
        assert!(VolumeName::from_str(&format!("{}@{}", "v".repeat(60), "s".repeat(8))).is_ok());
        assert!(VolumeName::from_str(&format!("{}@{}", "v".repeat(60), "s".repeat(9))).is_err());
        assert!(PoolName::from_str("a@b").is_err());
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
