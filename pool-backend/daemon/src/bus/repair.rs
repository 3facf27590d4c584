// SPDX-License-Identifier: LGPL-2.1-or-later
//! Check, dump and restore for clients: words in, words out.

use std::path::Path;

use virtnotify_driver::xml::PoolDefinition;
use virtnotify_engine::repair::{Checked, DumpFrom, RestoreFrom, RestoreRequest};
use virtnotify_model::{PoolName, VgName};

use super::Sources;
use super::error::Error;

/// A bus passes messages of 32 MiB, and closes the connection of who sends a longer one.
const TEXT_LIMIT: usize = 30 << 20;
/// More volumes than anybody leaves out by name.
const MOST_WITHOUT: usize = 1024;

/// The volume group of a pool, or the one of that name.
fn group(sources: &Sources, what: &str) -> Result<VgName, Error> {
    let unknown = || Error::NotFound(format!("there is no pool '{}'", what.escape_debug()));
    let pool: Option<PoolName> = what.parse().ok();
    let started = pool.as_ref().and_then(|pool| sources.repair.group_of(pool));
    let defined = || group_of_definition(&sources.definitions, pool.as_ref()?);
    match started.or_else(defined) {
        Some(group) => Ok(group),
        None => what.parse().map_err(|_| unknown()),
    }
}

fn group_of_definition(directory: &Path, pool: &PoolName) -> Option<VgName> {
    let text = std::fs::read_to_string(directory.join(format!("{pool}.xml"))).ok()?;
    PoolDefinition::parse(&text, false).ok().map(|definition| definition.vg)
}

/// Checks a pool.
pub fn check(sources: &Sources, what: &str) -> Result<Checked, Error> {
    Ok(sources.repair.check(&group(sources, what)?)?.into_plain())
}

/// A pool's map as text.
pub fn dump(sources: &Sources, what: &str, from: &str) -> Result<String, Error> {
    let from = match from {
        "metadata" => DumpFrom::Metadata,
        "kernel" => DumpFrom::Kernel,
        "backup" => DumpFrom::Backup,
        other => {
            let other = other.escape_debug();
            let text = format!("a map is in 'metadata', 'kernel' or 'backup', not in '{other}'");
            return Err(Error::InvalidArgument(text));
        }
    };
    let text = sources.repair.dump(&group(sources, what)?, from)?;
    if text.len() > TEXT_LIMIT {
        let size = text.len();
        return Err(Error::Failed(format!(
            "the map has {size} bytes, more than D-Bus carries: stop the daemon and dump it then"
        )));
    }
    Ok(text)
}

/// Restores a pool's metadata.
pub fn restore(
    sources: &Sources,
    vg: &str,
    from: &str,
    map: String,
    without: &[String],
    options: &[String],
) -> Result<Vec<String>, Error> {
    let wrong = |text: String| Error::InvalidArgument(text);
    let vg = vg.parse().map_err(|e: virtnotify_model::NameError| wrong(e.to_string()))?;
    let from = match from {
        "map" => RestoreFrom::Text(map),
        "backup" => RestoreFrom::Backup,
        "kernel" => RestoreFrom::Kernel,
        other => {
            let other = other.escape_debug();
            return Err(wrong(format!("restore from 'map', 'backup' or 'kernel', not '{other}'")));
        }
    };
    if without.len() > MOST_WITHOUT {
        return Err(wrong(format!("more than {MOST_WITHOUT} volumes to leave out")));
    }
    let without = without.iter().map(|name| name.parse()).collect::<Result<_, _>>();
    let without = without.map_err(|e: virtnotify_model::NameError| wrong(e.to_string()))?;
    let mut request =
        RestoreRequest { vg, from, without, force: false, no_archive: false, dry_run: false };
    for option in options {
        match option.as_str() {
            "force" => request.force = true,
            "no-archive" => request.no_archive = true,
            "dry-run" => request.dry_run = true,
            other => return Err(wrong(format!("there is no option '{}'", other.escape_debug()))),
        }
    }
    Ok(sources.repair.restore(&request)?.0)
}
