// SPDX-License-Identifier: LGPL-2.1-or-later
//! The XML of pools and volumes: read as libvirt reads it, printed as libvirt prints it.
//!
//! What libvirt's own parser ignores is ignored here as well, unless a client asks for validation;
//! XML that would make another volume than the client asked for is refused.

mod capabilities;
mod permissions;
mod policy;
mod pool;
mod print;
mod scale;
mod schema;
mod sources;
mod tree;
mod volume;

use thiserror::Error;
use virtnotify_model::NameError;

pub use capabilities::capabilities;
pub use permissions::Permissions;
pub use policy::changed_policy;
pub use pool::{PoolDefinition, PoolType, Standing, peek};
pub use sources::sources;
pub use tree::{Element, Limits, NOTIFY_NAMESPACE, Namespace, TreeError};
pub use volume::{VolumeDefinition, peek_volume, print_volume, raw_capacity, with_capacity};

/// Why XML does not describe a pool or a volume of ours.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum XmlError {
    /// The text cannot be read at all.
    #[error("({document}): {source}")]
    Tree {
        /// What it should have been.
        document: &'static str,
        /// Why it cannot be read.
        source: TreeError,
    },
    /// The root is another element.
    #[error("expecting root element of '{expected}', not '{found}'")]
    Root {
        /// What its root should be called.
        expected: &'static str,
        /// What its root is called.
        found: String,
    },
    /// An element is missing, or does not say what it should.
    #[error("{0}")]
    Malformed(String),
    /// A name that cannot be used.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Something that pools of this type do not have.
    #[error("{0}")]
    Unsupported(String),
    /// A feature of other pool types.
    #[error("{0}")]
    OtherPools(String),
    /// An unknown unit.
    #[error("unknown suffix '{0}'")]
    UnknownUnit(String),
    /// A size above 2^63-1.
    #[error("numerical overflow: value too large: {0}")]
    Overflow(String),
    /// The client asked for validation, and the schema does not allow this.
    #[error("{0}")]
    Schema(String),
}

fn malformed(what: &str) -> XmlError {
    XmlError::Malformed(what.to_owned())
}

/// Reads a document whose root has that name.
fn document(text: &str, document: &'static str, root: &'static str) -> Result<Element, XmlError> {
    let element = Element::parse(text).map_err(|source| XmlError::Tree { document, source })?;
    if element.name == root {
        Ok(element)
    } else {
        let found = element.name.chars().take(64).collect();
        Err(XmlError::Root { expected: root, found })
    }
}

/// A path without doubled or trailing slashes, as libvirt's `virFileSanitizePath` makes it.
#[must_use]
pub fn clean_path(path: &str) -> String {
    if path.split_once("://").is_some_and(|(scheme, _)| !scheme.contains('/')) {
        return path.to_owned();
    }
    let slashes = path.len() - path.trim_start_matches('/').len();
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let start = match slashes {
        0 => "",
        2 => "//",
        _ => "/",
    };
    format!("{start}{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::clean_path;

    #[test]
    fn paths_are_cleaned_as_libvirt_cleans_them() {
        for (path, clean) in [
            ("/dev/notify/vms", "/dev/notify/vms"),
            ("/dev//notify///vms/", "/dev/notify/vms"),
            ("//dev/notify", "//dev/notify"),
            ("///dev/notify", "/dev/notify"),
            ("/", "/"),
            ("a//b/", "a/b"),
            ("/../a", "/../a"),
            ("nbd://h//x", "nbd://h//x"),
            ("", ""),
        ] {
            assert_eq!(clean_path(path), clean, "{path}");
        }
    }
}
