// SPDX-License-Identifier: LGPL-2.1-or-later
//! The scripts of `tests/` and what each asks for in its first lines.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::HostArgs;

/// How long a script may take that says nothing of it, and how long one that takes long.
const LIMIT: Duration = Duration::from_secs(600);
const LONG_LIMIT: Duration = Duration::from_secs(1800);

/// A test that runs in the lab.
#[derive(Clone, Debug)]
pub struct Script {
    /// Its folder and stem.
    pub name: String,
    /// Its path below /root on host1.
    pub place: String,
    /// `# lab: OPTIONS`, as of `lab run`: the hosts that it needs.
    pub hosts: HostArgs,
    /// `# long`: it runs only when it is asked for.
    pub long: bool,
    /// `# limit: SECONDS`: it hangs if it takes longer.
    pub limit: Duration,
}

/// All scripts for hosts, in the order of their names. On the hosts' own kernel those of the target are long
/// ones, with `lab/` before their names: by default the fast lab has them.
pub fn all(kernel: Option<&str>) -> Result<Vec<Script>> {
    let top = crate::top()?;
    let mut found = Vec::new();
    for (dir, start) in [("dm", "0123456789"), ("lab", "t")] {
        let folder = top.join("tests").join(dir);
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        files.sort();
        for file in files {
            let name = crate::file_name(&file)?;
            let script = name.ends_with(".sh") || name.ends_with(".py");
            let test = name.starts_with(|c| start.contains(c))
                && (dir == "dm" || name.starts_with("test_"));
            if script && test {
                let Some(mut script) = read(dir, &name, &file)? else { continue };
                if dir == "dm" && kernel.is_none() {
                    script.name = script.name.replace("dm/", "lab/");
                    script.long = true;
                }
                found.push(script);
            }
        }
    }
    Ok(found)
}

fn read(dir: &str, name: &str, file: &Path) -> Result<Option<Script>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
    parse(dir, name, &text).with_context(|| format!("{}", file.display()))
}

/// `None` for a script with `# lab: none`: it needs a kernel that only the fast lab has.
fn parse(dir: &str, name: &str, text: &str) -> Result<Option<Script>> {
    let line = |start: &str| text.lines().find_map(|line| line.strip_prefix(start));
    // The target's ask for no second host.
    let usual = if dir == "dm" { "--hosts 1" } else { "" };
    let hosts = line("# lab: ").unwrap_or(usual);
    if hosts == "none" {
        return Ok(None);
    }
    let hosts = HostArgs::parse_words(hosts).context("its line '# lab:'")?;
    let long = text.lines().any(|line| line == "# long");
    let limit = match line("# limit: ") {
        None if long => LONG_LIMIT,
        None => LIMIT,
        Some(seconds) => {
            let seconds = seconds.trim().parse().context("its line '# limit:'")?;
            ensure!(seconds > 0, "its line '# limit:' says 0");
            Duration::from_secs(seconds)
        }
    };
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let (name, place) = (format!("{dir}/{stem}"), format!("tests/{dir}/{name}"));
    Ok(Some(Script { name, place, hosts, long, limit }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_asks_for_hosts_that_can_be_had() {
        let found = all(None).unwrap();
        assert!(found.iter().any(|s| s.name == "lab/01-base" && s.long));
        let oldest = all(Some("bookworm")).unwrap();
        assert!(oldest.iter().any(|s| s.name == "dm/01-base"));
        assert!(oldest.iter().all(|s| s.name != "dm/21-memory"), "it needs failslab");
        assert!(found.iter().any(|s| s.name == "lab/test_main_job"));
    }

    #[test]
    fn a_script_says_what_it_needs() {
        let read = |dir, name, text: &str| parse(dir, name, text).unwrap().unwrap();
        let plain = read("lab", "test_a.py", "#!/usr/bin/env python3\n");
        assert_eq!(
            (plain.name.as_str(), plain.place.as_str()),
            ("lab/test_a", "tests/lab/test_a.py")
        );
        assert_eq!((plain.long, plain.limit, plain.hosts), (false, LIMIT, HostArgs::default_lab()));
        let text = "# lab: --hosts 1\n# long\n# limit: 90\n";
        let other = read("dm", "01-a.sh", text);
        assert_eq!((other.long, other.limit), (true, Duration::from_secs(90)));
        assert_eq!(other.hosts, HostArgs::parse_words("--hosts 1").unwrap());
        assert_eq!(read("lab", "test_b.sh", "# long\n").limit, LONG_LIMIT);
        assert_eq!(read("dm", "01-a.sh", "").hosts, other.hosts);
        assert!(parse("dm", "01-a.sh", "# lab: none\n").unwrap().is_none());
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for bad in ["# limit: soon\n", "# limit: 0\n", "# limit: -1\n", "# lab: --hosts 9\n"] {
            assert!(parse("lab", "test_a.py", bad).is_err(), "{bad}");
        }
    }
}
