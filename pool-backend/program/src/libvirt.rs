// SPDX-License-Identifier: LGPL-2.1-or-later
//! What libvirt's daemons were told: `/etc/libvirt/libvirtd.conf` and its like, as far as it concerns us.

use std::io::{self, ErrorKind};
use std::path::Path;

/// The file of one daemon. Of a key that stands there twice, libvirt heeds the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LibvirtSettings(String);

impl LibvirtSettings {
    /// Reads a file; one that is not there says nothing.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read(path: &Path) -> io::Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => Ok(Self(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// What stands behind a key, to the end of the file.
    fn rest(&self, key: &str) -> Option<&str> {
        let mut at = 0;
        for line in self.0.split_inclusive('\n') {
            if let Some((name, value)) = line.split_once('=')
                && name.trim() == key
            {
                return Some(self.0[at + line.len() - value.len()..].trim_start());
            }
            at += line.len();
        }
        None
    }

    /// The value of a key that has one word.
    #[must_use]
    pub fn word(&self, key: &str) -> Option<&str> {
        let value = self.rest(key)?.lines().next().unwrap_or_default().trim_end();
        // Either quote, as libvirt reads them, and what stands behind the closing one is a comment.
        match value.chars().next() {
            Some(quote @ ('"' | '\'')) => value[1..].split(quote).next(),
            _ => Some(value),
        }
    }

    /// The value of a key that has a list, which may go on over several lines. libvirt does not start
    /// with one that it cannot read; here that is a list of whatever stands there.
    #[must_use]
    pub fn list(&self, key: &str) -> Vec<&str> {
        let value = self.rest(key).unwrap_or_default();
        let inside = match value.strip_prefix('[') {
            Some(inside) => inside.split(']').next().unwrap_or_default(),
            None => value.lines().next().unwrap_or_default(),
        };
        let items = inside.split(',').map(|item| {
            item.trim_matches(|letter: char| letter.is_whitespace() || matches!(letter, '"' | '\''))
        });
        items.filter(|item| !item.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> LibvirtSettings {
        LibvirtSettings(text.to_owned())
    }

    #[test]
    fn a_word_is_read_as_libvirt_reads_it() {
        for (text, word) in [
            ("", None),
            ("#auth = \"x\"\n", None),
            ("auth = \"none\"\n", Some("none")),
            ("auth='sasl' # over SSH", Some("sasl")),
            ("  auth = 7  \nauth = 8\n", Some("7")),
            ("other = \"auth = 1\"\nauth = 2", Some("2")),
            ("auth =", Some("")),
        ] {
            assert_eq!(settings(text).word("auth"), word, "{text}");
        }
    }

    #[test]
    fn a_list_may_go_on_over_lines() {
        for (text, list) in [
            ("", &[][..]),
            ("#drivers = [ \"polkit\" ]", &[]),
            ("drivers = [] # none", &[]),
            ("drivers = [ \"polkit\" ]\nmore = [ \"x\" ]", &["polkit"]),
            ("drivers=['polkit', 'none']", &["polkit", "none"]),
            ("drivers = [\n  \"none\",\n  \"polkit\",\n]\n", &["none", "polkit"]),
            ("drivers = [ \"polkit\"\n", &["polkit"]),
            ("drivers = \"polkit\"\nx = 1", &["polkit"]),
        ] {
            assert_eq!(settings(text).list("drivers"), list, "{text}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_says_nothing() {
        let there = LibvirtSettings::read(Path::new("/nowhere/x.conf")).unwrap();
        assert_eq!(there, LibvirtSettings::default());
        assert!(LibvirtSettings::read(Path::new("/")).is_err());
    }
}
