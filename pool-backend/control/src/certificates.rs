// SPDX-License-Identifier: LGPL-2.1-or-later
//! Whether this host has the certificates with which QEMU encrypts a migration. Of a peer's libvirt says nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use virtnotify_program::LibvirtSettings;

/// libvirt's configuration of QEMU.
const CONFIG: &str = "/etc/libvirt/qemu.conf";
/// Where libvirt looks for certificates of migrations, and of everything, unless its configuration says so
/// (`virQEMUDriverConfigSetDefaults` in its `qemu_conf.c`).
const OF_MIGRATIONS: &str = "/etc/pki/libvirt-migrate";
const OF_ALL: &str = "/etc/pki/qemu";
/// What the side that begins needs of them.
const FILES: [&str; 3] = ["ca-cert.pem", "client-cert.pem", "client-key.pem"];

/// A certificate or key that is not there; nothing where that cannot be seen.
pub fn missing() -> Option<PathBuf> {
    let config = LibvirtSettings::read(Path::new(CONFIG)).unwrap_or_default();
    missing_in(&directory(&config, Path::new(OF_MIGRATIONS)))
}

fn directory(config: &LibvirtSettings, of_migrations: &Path) -> PathBuf {
    if let Some(set) = config.word("migrate_tls_x509_cert_dir") {
        return set.into();
    }
    if of_migrations.exists() {
        return of_migrations.to_owned();
    }
    config.word("default_tls_x509_cert_dir").unwrap_or(OF_ALL).into()
}

fn missing_in(directory: &Path) -> Option<PathBuf> {
    let gone = |file: &PathBuf| {
        fs::metadata(file).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    FILES.iter().map(|name| directory.join(name)).find(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libvirt_s_configuration_says_where_they_are() {
        let none = Path::new("/no/such/directory");
        let file = tempfile::NamedTempFile::new().unwrap();
        let of = |config: &str, migrations: &Path| {
            fs::write(file.path(), config).unwrap();
            directory(&LibvirtSettings::read(file.path()).unwrap(), migrations)
        };
        assert_eq!(of("", none), Path::new(OF_ALL));
        assert_eq!(of("", Path::new("/")), Path::new("/"));
        let all = "#migrate_tls_x509_cert_dir = \"/a\"\n default_tls_x509_cert_dir='/b' # c\n";
        assert_eq!(of(all, none), Path::new("/b"));
        let both = format!("{all}migrate_tls_x509_cert_dir = \"/c\"\n");
        assert_eq!(of(&both, Path::new("/")), Path::new("/c"));
        // As libvirt reads it, the first one counts.
        let twice = format!("{both}migrate_tls_x509_cert_dir = \"/d\"\n");
        assert_eq!(of(&twice, none), Path::new("/c"));
        assert_eq!(of("default_tls_x509_cert_dir_x = \"/b\"", none), Path::new(OF_ALL));
    }

    #[test]
    fn the_first_that_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        for name in FILES {
            let path = directory.path().join(name);
            assert_eq!(missing_in(directory.path()), Some(path.clone()));
            fs::write(path, "").unwrap();
        }
        assert_eq!(missing_in(directory.path()), None);
    }
}
