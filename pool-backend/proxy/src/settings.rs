// SPDX-License-Identifier: LGPL-2.1-or-later
//! `/etc/virtnotify/proxy.toml`: what an operator decides for libvirt's storage sockets.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::config::{Auth, Config};

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file is there and cannot be read.
    #[error("cannot read '{}': {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not TOML, or says what cannot be.
    #[error("'{}' is wrong: {reason}", path.display())]
    Wrong {
        /// Which.
        path: PathBuf,
        /// Where and why, perhaps over several lines.
        reason: String,
    },
}

/// All of it; everything has a default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How clients of the read-write socket prove themselves, as in libvirt's configuration.
    pub auth_unix_rw: Auth,
    /// The same for the read-only socket.
    pub auth_unix_ro: Auth,
    /// How many clients the two sockets have at once, as in libvirt's configuration.
    pub max_clients: u32,
    /// How many of them one user may have who is not root.
    pub max_user_clients: u32,
    /// How many of them may not have proved themselves yet, on each socket.
    pub max_anonymous_clients: u32,
    /// How many calls of one client are worked on at once.
    pub max_client_requests: u32,
    /// Where things are.
    pub paths: Paths,
}

/// Where things are. Tests have them elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Paths {
    /// Definitions of pools, which are shown as inactive while virtnotifyd does not run.
    pub definitions: PathBuf,
    /// What is active now.
    pub state: PathBuf,
    /// Where virtnotifyd listens.
    pub storage: PathBuf,
    /// Where virtstoraged listens, behind us.
    pub upstream_rw: PathBuf,
    /// The same for its read-only socket.
    pub upstream_ro: PathBuf,
    /// Where libvirt's daemons have their configuration.
    pub libvirt: PathBuf,
    /// Where we listen when systemd hands over no sockets.
    pub listen_rw: PathBuf,
    /// The same for the read-only socket.
    pub listen_ro: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            auth_unix_rw: Auth::Polkit,
            auth_unix_ro: Auth::Polkit,
            max_clients: 5000,
            max_user_clients: 100,
            max_anonymous_clients: 20,
            max_client_requests: 5,
            paths: Paths::default(),
        }
    }
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            definitions: "/etc/virtnotify/pools".into(),
            state: "/run/virtnotify/pools".into(),
            storage: virtnotify_remote::SOCKET.into(),
            upstream_rw: "/run/libvirt/virtnotify/upstream-sock".into(),
            upstream_ro: "/run/libvirt/virtnotify/upstream-sock-ro".into(),
            libvirt: "/etc/libvirt".into(),
            listen_rw: "/run/libvirt/virtstoraged-sock".into(),
            listen_ro: "/run/libvirt/virtstoraged-sock-ro".into(),
        }
    }
}

impl Settings {
    /// Reads the file; defaults when there is none.
    ///
    /// # Errors
    /// When it cannot be read, or says what cannot be.
    pub fn load(path: &Path) -> Result<Self, SettingsError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).map_err(|reason| {
                let path = path.to_owned();
                SettingsError::Wrong { path, reason }
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(SettingsError::Read { path: path.to_owned(), source }),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let settings: Self =
            toml::from_str(text).map_err(|e| e.to_string().trim_end().to_owned())?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), String> {
        let limits = [
            ("max_clients", self.max_clients),
            ("max_user_clients", self.max_user_clients),
            ("max_anonymous_clients", self.max_anonymous_clients),
            ("max_client_requests", self.max_client_requests),
        ];
        if let Some((key, _)) = limits.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{key} is 0: nobody could ask anything"));
        }
        let paths = &self.paths;
        let all = [
            ("definitions", &paths.definitions),
            ("state", &paths.state),
            ("storage", &paths.storage),
            ("upstream_rw", &paths.upstream_rw),
            ("upstream_ro", &paths.upstream_ro),
            ("libvirt", &paths.libvirt),
            ("listen_rw", &paths.listen_rw),
            ("listen_ro", &paths.listen_ro),
        ];
        match all.iter().find(|(_, path)| !path.is_absolute()) {
            Some((key, path)) => {
                Err(format!("paths.{key} is '{}': it must start with a slash", path.display()))
            }
            None => Ok(()),
        }
    }

    /// The same as the interposer takes it.
    #[must_use]
    pub fn config(&self) -> Config {
        let mut config = Config::new(&self.paths.upstream_rw, &self.paths.upstream_ro);
        config.rw.auth = self.auth_unix_rw;
        config.ro.auth = self.auth_unix_ro;
        config.libvirt.clone_from(&self.paths.libvirt);
        config.max_clients = self.max_clients as usize;
        config.max_user_clients = self.max_user_clients as usize;
        config.max_anonymous_clients = self.max_anonymous_clients as usize;
        config.max_client_requests = self.max_client_requests as usize;
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_all_defaults() {
        assert_eq!(Settings::parse("").unwrap(), Settings::default());
        assert_eq!(Settings::load(Path::new("/nowhere/x.toml")).unwrap(), Settings::default());
    }

    #[test]
    fn the_file_that_is_installed_shows_the_defaults() {
        let text = include_str!("../../../packaging/proxy.toml");
        let shown: String = text
            .lines()
            .filter_map(|line| line.strip_prefix('#').filter(|line| line.contains(" = ")))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(shown.lines().count(), 6);
        assert_eq!(Settings::parse(&shown).unwrap(), Settings::default());
        assert_eq!(Settings::parse(text).unwrap(), Settings::default());
    }

    #[test]
    fn a_whole_file_is_read() {
        let text = "auth_unix_rw = 'none'\nmax_clients = 9\n[paths]\nstorage = '/s'\n";
        let config = Settings::parse(text).unwrap().config();
        assert_eq!((config.rw.auth, config.ro.auth), (Auth::None, Auth::Polkit));
        assert_eq!((config.max_clients, config.max_client_requests), (9, 5));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, says) in [
            ("auth_unix_rw = 'none'\nauth = 1\n", &["line 2", "unknown field `auth`"][..]),
            ("auth_unix_rw = 'sasl'", &["line 1", "unknown variant `sasl`"]),
            ("max_client_requests = 0", &["max_client_requests is 0"]),
            ("max_user_clients = 0", &["max_user_clients is 0"]),
            ("max_clients = -1", &["line 1", "invalid value"]),
            ("x = \n", &["line 1"]),
            ("[paths]\nstorage = 'x'", &["paths.storage is 'x'"]),
        ] {
            let error = Settings::parse(text).unwrap_err();
            assert!(says.iter().all(|part| error.contains(part)), "{text}: {error}");
        }
    }
}
