// SPDX-License-Identifier: LGPL-2.1-or-later
//! Volumes and snapshots as people name them: `POOL/VOLUME`, `POOL/VOLUME@SNAPSHOT`, or the device.

use std::fmt;
use std::path::PathBuf;

use virtnotify_model::{NameError, PoolName, VolumeName};

use crate::client::Problem;

/// A volume, or a snapshot, and its pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub pool: PoolName,
    pub volume: VolumeName,
}

impl Named {
    /// Its device.
    pub fn device(&self) -> PathBuf {
        format!("/dev/notify/{}/{}", self.pool, self.volume).into()
    }

    /// Another volume or snapshot of the same pool.
    pub fn beside(&self, volume: VolumeName) -> Self {
        Self { pool: self.pool.clone(), volume }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.pool, self.volume)
    }
}

/// A volume or a snapshot.
pub fn any(text: &str) -> Result<Named, Problem> {
    let rest = text.strip_prefix("/dev/notify/").unwrap_or(text);
    let (pool, volume) = rest
        .split_once('/')
        .ok_or_else(|| Problem::Usage(format!("'{}' is not POOL/VOLUME", text.escape_debug())))?;
    let wrong = |error: NameError| Problem::Usage(error.to_string());
    Ok(Named { pool: pool.parse().map_err(wrong)?, volume: volume.parse().map_err(wrong)? })
}

/// A volume.
pub fn volume(text: &str) -> Result<Named, Problem> {
    let named = any(text)?;
    match named.volume.snapshot() {
        None => Ok(named),
        Some(_) => Err(Problem::Usage(format!("'{named}' is a snapshot, and not a volume"))),
    }
}

/// A snapshot.
pub fn snapshot(text: &str) -> Result<Named, Problem> {
    let named = any(text)?;
    match named.volume.snapshot() {
        Some(_) => Ok(named),
        None => Err(Problem::Usage(format!("'{named}' is not POOL/VOLUME@SNAPSHOT"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::code;

    #[test]
    fn volumes_and_snapshots_are_told_apart() {
        assert_eq!(any("/dev/notify/vms/a@mon").unwrap(), any("vms/a@mon").unwrap());
        assert_eq!(volume("vms/a").unwrap().to_string(), "vms/a");
        assert_eq!(snapshot("vms/a@mon").unwrap().device(), PathBuf::from("/dev/notify/vms/a@mon"));
        for bad in ["vms", "/dev/sda", "a/b/c", "vms/a@", "", "vms/-a", "../a"] {
            assert_eq!(any(bad).unwrap_err().code(), code::USAGE, "{bad}");
        }
        assert!(volume("vms/a@mon").is_err() && snapshot("vms/a").is_err());
    }
}
