// SPDX-License-Identifier: LGPL-2.1-or-later
//! `/etc/virtnotify/virtnotify.toml`: what an operator decides for a host.
//!
//! Everything has a default, and a missing file is all defaults. A key or value that makes no sense
//! stops the start with the line and the reason: a daemon that runs differently from what its
//! operator believes is worse than one that does not run. A wrong peer alone is left out, which is
//! logged: guests that write do not need it.

use std::io;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

/// A configuration that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file is there and cannot be read.
    #[error("cannot read '{}': {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not TOML, or has a key or a type of value that is not known.
    #[error("'{}' is wrong: {reason}", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where and why, over several lines.
        reason: String,
    },
    /// A value that is not possible.
    #[error("'{}' is wrong: {reason}", path.display())]
    Value {
        /// Which.
        path: PathBuf,
        /// Which value, and why.
        reason: String,
    },
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Hosts that VMs may be moved to, as they stand there: [`Config::peers`] reads each by itself.
    #[serde(rename = "peer")]
    peers: Vec<toml::Table>,
    /// Moving VMs.
    #[serde(rename = "move")]
    pub moves: Moves,
    /// Pools and volumes.
    pub storage: Storage,
    /// Moving chunks.
    pub collector: Collector,
    /// Figures for Prometheus.
    pub metrics: Metrics,
    /// Where things are.
    pub paths: Paths,
}

/// Figures for Prometheus.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// The file for node_exporter's textfile collector, which takes those that end in `.prom`;
    /// without it there are none.
    pub textfile: Option<PathBuf>,
    /// Seconds between two writes of it.
    pub interval: u32,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { textfile: None, interval: 15 }
    }
}

/// Pools and volumes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// How much zeroed space a pool keeps ready, in MiB, at most half of its volume group. If it is not
    /// set: 64, or a 256th of the volume group where that is more, up to the limit below; at most a
    /// sixteenth of the group.
    pub headroom_mib: Option<u32>,
    /// The most that the headroom may grow to by itself while volumes grow fast, in MiB.
    pub headroom_limit_mib: u32,
    /// The least that a pool's logical volume grows by at a time, in MiB.
    pub step_mib: u32,
    /// Seconds after which a write that still waits for space gets "no space".
    pub hold_timeout: u32,
    /// Seconds after which an LVM command is given up.
    pub lvm_timeout: u32,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            headroom_mib: None,
            headroom_limit_mib: 1024,
            step_mib: 64,
            hold_timeout: 30,
            lvm_timeout: 60,
        }
    }
}

/// Moving chunks while guests use them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Collector {
    /// The most that is moved in a second in each pool, in MiB.
    pub budget_mib: u32,
}

impl Default for Collector {
    fn default() -> Self {
        Self { budget_mib: 64 }
    }
}

impl Collector {
    fn check(&self) -> Result<(), String> {
        match self.budget_mib {
            0 => Err("collector.budget_mib must be 1 at least".into()),
            _ => Ok(()),
        }
    }
}

/// A host that VMs may be moved to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its name in messages.
    pub name: String,
    /// libvirt's URI of it.
    pub uri: String,
    /// How many VMs may be on their way to it at once, from all hosts.
    #[serde(default = "two")]
    pub arrivals: usize,
    /// The only address at which it takes in memory and disks.
    pub address: Option<IpAddr>,
}

fn two() -> usize {
    2
}

/// Moving VMs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Moves {
    /// How many may leave this host at once.
    pub concurrent: usize,
    /// Seconds after which a VM that could not be moved is tried again; twice as long each time.
    pub retry: u32,
    /// The longest time between two tries, in seconds.
    pub retry_limit: u32,
    /// Seconds after which a migration that copies nothing is cancelled.
    pub stall_timeout: u32,
    /// Seconds after which a migration is cancelled whose rest does not become less.
    pub nearer_timeout: u32,
    /// Seconds within which a VM does not go back to where it came from.
    pub no_return: u32,
    /// What a move is expected to copy in a second, in MiB, until one was seen.
    pub bandwidth_mib: u32,
    /// Whether memory and disks are encrypted on their way.
    pub tls: Tls,
    /// How many connections carry a VM's memory.
    pub connections: NonZeroU8,
    /// libvirt's URI of this host.
    pub uri: String,
}

/// Whether memory and disks are encrypted on their way. There is no "if possible": an attacker who can disturb
/// the connection would decide it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// They are, or the VM does not move.
    Require,
    /// They are not.
    Never,
}

/// Where things are. Tests have them elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Paths {
    /// Definitions of pools.
    pub definitions: PathBuf,
    /// What is active now; a reboot empties it.
    pub state: PathBuf,
    /// The journal of moves.
    pub moves: PathBuf,
    /// The account of usage.
    pub usage: PathBuf,
    /// How full pools were.
    pub history: PathBuf,
    /// LVM's program.
    pub lvm: PathBuf,
    /// Where virtnotifyd listens for its neighbours.
    pub storage: PathBuf,
}

impl Default for Moves {
    fn default() -> Self {
        Self {
            concurrent: 1,
            retry: 15,
            retry_limit: 600,
            stall_timeout: 300,
            nearer_timeout: 900,
            no_return: 3600,
            bandwidth_mib: 100,
            tls: Tls::Never,
            connections: NonZeroU8::MIN,
            uri: "qemu:///system".into(),
        }
    }
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            definitions: "/etc/virtnotify/pools".into(),
            state: "/run/virtnotify/pools".into(),
            moves: "/var/lib/virtnotify/moves".into(),
            usage: "/var/lib/virtnotify/usage".into(),
            history: "/var/lib/virtnotify/history".into(),
            lvm: "/usr/sbin/lvm".into(),
            storage: virtnotify_model::STORAGE_SOCKET.into(),
        }
    }
}

impl Config {
    /// Reads the file; defaults when there is none.
    ///
    /// # Errors When it cannot be read, or has a value that is not possible.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let wrong = |e: toml::de::Error| ConfigError::Parse {
            path: path.to_owned(),
            reason: e.to_string().trim_end().to_owned(),
        };
        let config: Self = toml::from_str(text).map_err(wrong)?;
        let value = |reason| ConfigError::Value { path: path.to_owned(), reason };
        config.check().map_err(value)?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        self.moves.check()?;
        self.storage.check()?;
        self.collector.check()?;
        self.metrics.check()?;
        self.paths.check()
    }

    /// The peers, and what is wrong with others: a wrong one is left out, and storage goes on.
    #[must_use]
    pub fn peers(&self) -> (Vec<Peer>, Vec<String>) {
        let (mut peers, mut wrong) = (Vec::<Peer>::new(), Vec::new());
        for (number, table) in self.peers.iter().enumerate() {
            match Peer::read(table) {
                Ok(peer) if peers.iter().any(|other| other.name == peer.name) => {
                    wrong.push(format!(
                        "there are two peers named '{}': the first counts",
                        peer.name
                    ));
                }
                Ok(peer) => peers.push(peer),
                Err(reason) => {
                    let name = table.get("name").and_then(toml::Value::as_str);
                    let which = name.map_or(format!("number {}", number + 1), |n| format!("{n:?}"));
                    wrong.push(format!("the peer {which} is left out: {reason}"));
                }
            }
        }
        (peers, wrong)
    }
}

impl Moves {
    fn check(&self) -> Result<(), String> {
        if self.concurrent == 0 {
            return Err("move.concurrent is 0: at least one VM must be able to leave; \
                        without peers none ever does"
                .into());
        }
        let all = [
            ("retry", self.retry),
            ("retry_limit", self.retry_limit),
            ("stall_timeout", self.stall_timeout),
            ("nearer_timeout", self.nearer_timeout),
            ("bandwidth_mib", self.bandwidth_mib),
        ];
        match all.iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(format!("move.{key} is 0: it must be 1 at least")),
            None if self.retry_limit < self.retry => {
                Err("move.retry_limit must be move.retry at least".into())
            }
            None => Ok(()),
        }
    }
}

impl Storage {
    fn check(&self) -> Result<(), String> {
        if self.step_mib == 0 || self.headroom_mib == Some(0) || self.lvm_timeout == 0 {
            return Err("storage.headroom_mib, step_mib and lvm_timeout must be 1 at least".into());
        }
        // Linux warns of blocked tasks after 120 s, and Windows ends after about 70.
        if !(1..=60).contains(&self.hold_timeout) {
            return Err(format!(
                "storage.hold_timeout is {}: 1 to 60 seconds are possible, for guests do not \
                 survive a longer wait",
                self.hold_timeout
            ));
        }
        Ok(())
    }
}

impl Peer {
    fn read(table: &toml::Table) -> Result<Self, String> {
        let peer: Self = table.clone().try_into().map_err(|e| e.message().to_owned())?;
        peer.check()?;
        Ok(peer)
    }

    /// Names become parts of file names, so they have the characters of host names.
    fn check(&self) -> Result<(), String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let name = &self.name;
        if name.is_empty() || name.starts_with('.') || name.len() > 64 || !name.chars().all(allowed)
        {
            return Err(format!(
                "{name:?} cannot be a peer's name: up to 64 letters, digits and . _ - are \
                 possible, not starting with a dot"
            ));
        }
        if self.arrivals == 0 {
            return Err(format!(
                "arrivals of the peer '{name}' is 0: leave the peer out to move nothing to it"
            ));
        }
        if !self.uri.contains("://") {
            return Err(format!(
                "{:?} of the peer '{name}' is no URI of libvirt: 'qemu+ssh://{name}/system' is one",
                self.uri
            ));
        }
        Ok(())
    }
}

impl Metrics {
    fn check(&self) -> Result<(), String> {
        if self.interval == 0 {
            return Err("metrics.interval is 0: it must be 1 at least".into());
        }
        match &self.textfile {
            Some(file) if !file.is_absolute() || file.extension().is_none_or(|e| e != "prom") => {
                let file = file.display();
                Err(format!(
                    "metrics.textfile is '{file}': it must start with a slash and end in '.prom'"
                ))
            }
            _ => Ok(()),
        }
    }
}

impl Paths {
    /// The file whose presence says that this host is drained; virtnotify-control makes and removes it.
    #[must_use]
    pub fn drained(&self) -> PathBuf {
        self.moves.join("drained")
    }

    fn check(&self) -> Result<(), String> {
        let all = [
            ("definitions", &self.definitions),
            ("state", &self.state),
            ("moves", &self.moves),
            ("usage", &self.usage),
            ("history", &self.history),
            ("lvm", &self.lvm),
            ("storage", &self.storage),
        ];
        match all.iter().find(|(_, path)| !path.is_absolute()) {
            Some((key, path)) => {
                Err(format!("paths.{key} is '{}': it must start with a slash", path.display()))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("/x.toml"), text).map_err(|e| e.to_string())
    }

    #[test]
    fn nothing_is_all_defaults() {
        assert_eq!(parse("").unwrap(), Config::default());
        assert_eq!(Config::load(Path::new("/nowhere/x.toml")).unwrap(), Config::default());
    }

    const INSTALLED: &str = include_str!("../../../packaging/virtnotify.toml");
    const DOCUMENT: &str = include_str!("../../../docs/operator/configuration.md");

    /// The keys of a table, which the error about a wrong one names.
    fn keys(table: &str) -> Vec<String> {
        let error = match parse(&format!("{table}\nno_such_key = 1\n")) {
            Err(error) => error,
            // A wrong peer alone is left out.
            Ok(config) => config.peers().1.concat(),
        };
        let expected = error.split("expected").nth(1).expect(&error);
        expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_file_that_is_installed_and_the_document_have_each_key() {
        for table in ["[storage]", "[collector]", "[move]", "[metrics]", "[[peer]]"] {
            let part = INSTALLED.split(&format!("#{table}\n")).nth(1).expect(table);
            let part = part.split("\n#[").next().unwrap_or_default();
            let keys = keys(table);
            for key in &keys {
                assert!(format!("\n{part}").contains(&format!("\n#{key} = ")), "{table} {key}");
                assert!(DOCUMENT.contains(&format!("`{key}`")), "{table} {key}");
            }
            let shown = part.lines().filter(|line| line.starts_with('#') && line.contains(" = "));
            assert_eq!(shown.count(), keys.len(), "{table}");
        }
    }

    #[test]
    fn the_file_that_is_installed_shows_the_defaults() {
        assert_eq!(parse(INSTALLED).unwrap(), Config::default());
        let lines = INSTALLED.lines().filter_map(|line| line.strip_prefix('#'));
        let shown: String = lines
            .filter(|line| line.starts_with('[') || line.contains(" = "))
            .map(|line| format!("{line}\n"))
            .collect();
        let mut shown = parse(&shown).unwrap();
        // These have none of their own: the file shows an example.
        assert_eq!(std::mem::take(&mut shown.peers).len(), 1);
        shown.storage.headroom_mib = None;
        shown.metrics.textfile = None;
        assert_eq!(shown, Config::default());
    }

    #[test]
    fn a_whole_file_is_read() {
        let text = "[move]\nconcurrent = 2\ntls = 'require'\nconnections = 4\n\
                    [[peer]]\nname = 'host2'\nuri = 'qemu+ssh://host2/system'\n\
                    address = 'fd00::2'\n";
        let config = parse(text).unwrap();
        assert_eq!(config.moves.concurrent, 2);
        let uri = "qemu+ssh://host2/system".into();
        assert_eq!((config.moves.tls, config.moves.connections.get()), (Tls::Require, 4));
        let address = Some("fd00::2".parse().unwrap());
        let peer = Peer { name: "host2".into(), uri, arrivals: 2, address };
        assert_eq!(config.peers(), (vec![peer], Vec::new()));
        assert_eq!(config.moves.retry, 15);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, says) in [
            ("[move]\nauth = 1\n".to_owned(), vec!["line 2", "unknown field `auth`"]),
            ("[move]\nconcurrent = -1".into(), vec!["line 2", "invalid value"]),
            ("[move]\nconcurrent = 0".into(), vec!["move.concurrent is 0"]),
            ("[move]\nretry = 0".into(), vec!["move.retry is 0"]),
            ("[move]\nretry = 20\nretry_limit = 10".into(), vec!["must be move.retry at least"]),
            ("[move]\ntls = 'prefer'".into(), vec!["line 2", "expected `require` or `never`"]),
            ("[move]\nconnections = 0".into(), vec!["line 2", "nonzero"]),
            ("[move]\nconnections = 256".into(), vec!["line 2", "256"]),
            ("x = \n".into(), vec!["line 1"]),
            ("[storage]\nhold_timeout = 0".into(), vec!["hold_timeout is 0"]),
            ("[storage]\nstep_mib = 0".into(), vec!["must be 1 at least"]),
            ("[paths]\nlvm = 'lvm'".into(), vec!["paths.lvm is 'lvm'"]),
            ("[metrics]\ninterval = 0".into(), vec!["metrics.interval is 0"]),
            ("[metrics]\ntextfile = '/x'".into(), vec!["metrics.textfile is '/x'", "'.prom'"]),
            ("[metrics]\ntextfile = 'x.prom'".into(), vec!["metrics.textfile is 'x.prom'"]),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(says.iter().all(|part| error.contains(part)), "{text}: {error}");
        }
    }

    #[test]
    fn a_wrong_peer_is_left_out_and_the_others_count() {
        let peer = |name, uri| format!("[[peer]]\nname = \"{name}\"\nuri = \"{uri}\"\n");
        let good = peer("a", "qemu+ssh://a/system");
        for (text, says) in [
            (peer("b", "qemu:///b") + "arrivals = 0\n", "arrivals of the peer 'b' is 0"),
            ("[[peer]]\nname = 'b'\n".into(), "the peer \"b\" is left out: missing field `uri`"),
            ("[[peer]]\n".into(), "the peer number 1 is left out: missing field `name`"),
            (peer("../a", "qemu:///system"), "cannot be a peer's name"),
            (peer("b", "host2"), "is no URI of libvirt"),
            (peer("b", "qemu:///b") + "user = 'x'\n", "unknown field `user`"),
            (peer("b", "qemu:///b") + "address = 'host2'\n", "invalid IP address syntax"),
        ] {
            let (peers, wrong) = parse(&(text.clone() + &good)).unwrap().peers();
            assert_eq!(peers.len(), 1, "{text}");
            assert_eq!(peers[0].name, "a");
            assert!(wrong.len() == 1 && wrong[0].contains(says), "{text}: {wrong:?}");
        }
        let (peers, wrong) = parse(&good.repeat(2)).unwrap().peers();
        assert_eq!(peers.len(), 1);
        assert_eq!(wrong, ["there are two peers named 'a': the first counts"]);
    }
}
