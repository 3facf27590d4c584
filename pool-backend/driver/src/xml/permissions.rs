// SPDX-License-Identifier: LGPL-2.1-or-later
//! `<permissions>` of a pool's or a volume's target.

use super::print::Printer;
use super::tree::Element;
use super::{XmlError, malformed};

/// Who may use a target; what is absent is left as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Permissions {
    /// The permission bits, at most 0777.
    pub mode: Option<u32>,
    /// The owner.
    pub owner: Option<u32>,
    /// The group.
    pub group: Option<u32>,
    /// The security label.
    pub label: Option<String>,
}

impl Permissions {
    /// Reads the `<permissions>` in `target`, if there are any.
    ///
    /// # Errors When a number is invalid.
    pub fn parse(target: Option<&Element>) -> Result<Self, XmlError> {
        let Some(element) = target.and_then(|target| target.child("permissions")) else {
            return Ok(Permissions::default());
        };
        Ok(Permissions {
            mode: element.text_at(&["mode"]).map(mode).transpose()?,
            owner: id(element, "owner")?,
            group: id(element, "group")?,
            label: element.text_at(&["label"]).map(str::to_owned),
        })
    }

    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Permissions::default()
    }

    /// Prints them, if there are any.
    pub fn print(&self, out: &mut Printer) {
        if self.is_empty() {
            return;
        }
        out.block("permissions", |out| {
            out.optional("mode", self.mode.map(|mode| format!("0{mode:o}")));
            out.optional("owner", self.owner);
            out.optional("group", self.group);
            out.optional("label", self.label.as_ref());
        });
    }
}

fn mode(text: &str) -> Result<u32, XmlError> {
    let mode = u32::from_str_radix(text.trim_start(), 8).ok();
    mode.filter(|mode| *mode <= 0o777).ok_or_else(|| malformed("malformed octal mode"))
}

/// An id; -1 is what libvirt once printed for "as it is".
fn id(element: &Element, name: &str) -> Result<Option<u32>, XmlError> {
    match element.child(name).map(|id| id.text.trim()) {
        None | Some("-1") => Ok(None),
        Some(text) => match text.parse::<u32>() {
            Ok(id) if id != u32::MAX => Ok(Some(id)),
            _ => Err(XmlError::Malformed(format!("malformed {name} element"))),
        },
    }
}
