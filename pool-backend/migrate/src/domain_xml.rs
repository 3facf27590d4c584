// SPDX-License-Identifier: LGPL-2.1-or-later
//! Reads the XML that libvirt has of a VM, once: each element is shown to all that want something of it.

use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{Namespace, ResolveResult};
use quick_xml::{NsReader, XmlVersion};
use thiserror::Error;

use crate::domain::{Disk, Disks};
use crate::surroundings::{self, Surroundings};
use crate::wishes::{self, Wishes};

/// XML that is no domain.
#[derive(Debug, Error)]
pub enum XmlError {
    /// Not well-formed.
    #[error("libvirt's XML of a VM cannot be read: {0}")]
    Syntax(#[from] quick_xml::Error),
    /// Attributes that are not well-formed.
    #[error("libvirt's XML of a VM has a broken attribute: {0}")]
    Attribute(#[from] quick_xml::events::attributes::AttrError),
    /// The document ends inside an element.
    #[error("libvirt's XML of a VM ends too early")]
    Truncated,
}

/// What its XML says of a VM.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct DomainXml {
    /// Its disks.
    pub disks: Vec<Disk>,
    /// What it finds on its host.
    pub surroundings: Surroundings,
    /// What its operator wants of it.
    pub wishes: Wishes,
}

/// An element, as it begins.
pub(crate) struct Element<'a> {
    /// The names on the way to it, its own the last; with their prefixes.
    pub path: &'a [&'a str],
    /// The namespace that its prefix stands for.
    pub namespace: Option<&'a str>,
    tag: &'a BytesStart<'a>,
}

impl Element<'_> {
    /// The value of an attribute.
    pub(crate) fn attribute(&self, key: &str) -> Result<Option<String>, XmlError> {
        let found = self.attributes()?.into_iter().find(|(name, _)| name == key);
        Ok(found.map(|(_, value)| value))
    }

    /// All attributes that are no declaration of a namespace.
    pub(crate) fn attributes(&self) -> Result<Vec<(String, String)>, XmlError> {
        let mut all = Vec::new();
        for attribute in self.tag.attributes() {
            let attribute = attribute?;
            let key = attribute.key.as_ref().to_owned();
            if key != "xmlns" && !key.starts_with("xmlns:") {
                let value = attribute.normalized_value(XmlVersion::Implicit1_0)?.into_owned();
                all.push((key, value));
            }
        }
        Ok(all)
    }

    /// Its name without a prefix.
    pub(crate) fn local_name(&self) -> &str {
        self.path.last().map_or("", |name| name.rsplit(':').next().unwrap_or(name))
    }
}

/// Reads a domain's XML.
///
/// # Errors
/// When it is no XML.
pub(crate) fn read(xml: &str) -> Result<DomainXml, XmlError> {
    let mut all = All::default();
    let mut reader = NsReader::from_str(xml);
    let mut path: Vec<String> = Vec::new();
    loop {
        let (namespace, event) = reader.read_resolved_event()?;
        let namespace = match namespace {
            ResolveResult::Bound(Namespace(uri)) => Some(uri.to_owned()),
            _ => None,
        };
        let end = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
        let (tag, empty) = match event {
            Event::Start(tag) => (tag, false),
            Event::Empty(tag) => (tag, true),
            Event::End(_) => {
                all.ends(&path, xml.get(..end).unwrap_or(xml));
                path.pop();
                continue;
            }
            Event::Eof if path.is_empty() => return Ok(all.found()),
            Event::Eof => return Err(XmlError::Truncated),
            _ => continue,
        };
        path.push(tag.name().as_ref().to_owned());
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        all.see(&Element { path: &names, namespace: namespace.as_deref(), tag: &tag })?;
        if empty {
            path.pop();
        }
    }
}

/// All that want something of the elements.
#[derive(Default)]
struct All {
    disks: Disks,
    surroundings: surroundings::Reader,
    wishes: wishes::Reader,
    /// The definition of the CPU, as it stands there.
    cpu: Option<String>,
}

impl All {
    fn see(&mut self, element: &Element<'_>) -> Result<(), XmlError> {
        self.disks.see(element)?;
        self.surroundings.see(element)?;
        self.wishes.see(element)
    }

    /// An element ends, and with it the text so far.
    fn ends(&mut self, path: &[String], text: &str) {
        if path == ["domain", "cpu"] {
            self.cpu = text.rfind("<cpu").map(|start| text[start..].to_owned());
        }
        if path == ["domain", "os", "nvram"] {
            let inside = text.rsplit_once("</").and_then(|(text, _)| text.rsplit_once('>'));
            let path = inside.and_then(|(_, text)| quick_xml::escape::unescape(text.trim()).ok());
            self.surroundings.nvram_is(&path.unwrap_or_default());
        }
    }

    fn found(self) -> DomainXml {
        let (disks, wishes) = (self.disks.found(), self.wishes.found());
        DomainXml { disks, surroundings: self.surroundings.found(self.cpu), wishes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_xml_is_an_error() {
        for bad in ["<domain><devices>", "<domain></other>", "<domain a=></domain>", "<a"] {
            let refused = read(bad).is_err() || read(bad).unwrap() == DomainXml::default();
            assert!(refused, "{bad}");
        }
        assert!(matches!(read("<domain><devices>"), Err(XmlError::Truncated)));
    }
}
