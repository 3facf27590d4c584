// SPDX-License-Identifier: LGPL-2.1-or-later
//! XML text as a small tree of elements.
//!
//! The text comes from clients. So there is no DTD and no entity but the five that XML has
//! by itself, and size, depth, elements and attributes are bounded before they cost memory
//! or time. Comments and processing instructions are skipped.

use quick_xml::NsReader;
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::name::ResolveResult;
use thiserror::Error;

/// How large a document may be before it costs memory or time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of text.
    pub size: usize,
    /// Levels of elements.
    pub depth: usize,
    /// Elements in all.
    pub elements: usize,
    /// Attributes of one element.
    pub attributes: usize,
}

impl Limits {
    /// For pools and volumes, which any client sends: the longest string of libvirt's protocol, and
    /// more than the five levels that they need.
    pub const CLIENT: Self = Self { size: 4 << 20, depth: 32, elements: 10_000, attributes: 64 };
    /// For guests as libvirt prints them. A disk's `<backingStore>` nests once for each image behind
    /// it, of which libvirt allows 200 (`VIR_STORAGE_MAX_CHAIN_DEPTH`); a guest has hundreds of disks.
    pub const GUEST: Self =
        Self { size: 16 << 20, depth: 512, elements: 1_000_000, attributes: 64 };
}

/// The namespace of what only pools of type `notify` have.
pub const NOTIFY_NAMESPACE: &str = "https://virtnotify.org/xmlns/pool/1.0";

/// The namespace of an element. The name of a namespace may be long and every element may have it,
/// so only ours is kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Namespace {
    /// None, as libvirt's own elements.
    #[default]
    None,
    /// [`NOTIFY_NAMESPACE`].
    Notify,
    /// Any other.
    Other,
}

/// Why a text is not a tree.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum TreeError {
    /// More text than a pool's description needs.
    #[error("the document has {size} bytes, {limit} at most are possible")]
    TooLarge {
        /// Its length.
        size: usize,
        /// The longest that is read.
        limit: usize,
    },
    /// A bound of the tree.
    #[error("line {line}: more than {limit} {what}")]
    TooMany {
        /// Where.
        line: usize,
        /// What there are too many of.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// A DTD, or an entity that only a DTD could define.
    #[error("line {line}: {what} is not allowed")]
    Forbidden {
        /// Where.
        line: usize,
        /// What it is.
        what: String,
    },
    /// No well-formed XML.
    #[error("line {line}: {what}")]
    Malformed {
        /// Where.
        line: usize,
        /// What is wrong.
        what: String,
    },
}

/// An element with all that is in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Element {
    /// Its name, without the prefix of its namespace.
    pub name: String,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its attributes in order, declarations of namespaces left out; no name comes twice.
    pub attributes: Vec<(String, String)>,
    /// The elements in it, in order.
    pub children: Vec<Element>,
    /// The text in it, that of its children left out.
    pub text: String,
}

impl Element {
    /// Reads a client's document, within [`Limits::CLIENT`].
    ///
    /// # Errors
    /// When it is not well-formed, or beyond a limit.
    pub fn parse(text: &str) -> Result<Self, TreeError> {
        Self::parse_within(text, Limits::CLIENT)
    }

    /// Reads a document within `limits`.
    ///
    /// # Errors
    /// When it is not well-formed, or beyond a limit.
    pub fn parse_within(text: &str, limits: Limits) -> Result<Self, TreeError> {
        if text.len() > limits.size {
            return Err(TreeError::TooLarge { size: text.len(), limit: limits.size });
        }
        Builder::new(text, limits).run()
    }

    /// Whether it has that name.
    #[must_use]
    pub fn is(&self, namespace: Namespace, name: &str) -> bool {
        self.namespace == namespace && self.name == name
    }

    /// The first child of that name, without a namespace.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.child_in(Namespace::None, name)
    }

    /// The first child of that name.
    #[must_use]
    pub fn child_in(&self, namespace: Namespace, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.is(namespace, name))
    }

    /// All children of that name, without a namespace.
    pub fn children<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.is(Namespace::None, name))
    }

    /// The element that a path of child names leads to.
    #[must_use]
    pub fn at(&self, path: &[&str]) -> Option<&Element> {
        path.iter().try_fold(self, |element, name| element.child(name))
    }

    /// The text of the element at `path`; one that is empty counts as absent, as in libvirt.
    #[must_use]
    pub fn text_at(&self, path: &[&str]) -> Option<&str> {
        self.at(path).map(|element| element.text.as_str()).filter(|text| !text.is_empty())
    }

    /// An attribute; one that is empty counts as absent, as in libvirt.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let value = self.attributes.iter().find(|(key, _)| key == name)?.1.as_str();
        Some(value).filter(|value| !value.is_empty())
    }
}

/// What XML 1.0 allows as a character.
fn allowed(letter: char) -> bool {
    matches!(letter, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..)
}

struct Builder<'a> {
    text: &'a str,
    limits: Limits,
    reader: NsReader<&'a [u8]>,
    /// Elements that are open, the root first.
    open: Vec<Element>,
    root: Option<Element>,
    elements: usize,
}

impl<'a> Builder<'a> {
    fn new(text: &'a str, limits: Limits) -> Self {
        let mut reader = NsReader::from_str(text);
        reader.config_mut().enable_all_checks(true);
        Builder { text, limits, reader, open: Vec::new(), root: None, elements: 0 }
    }

    fn run(mut self) -> Result<Element, TreeError> {
        if let Some(at) = self.text.find(|letter| !allowed(letter)) {
            let line = 1 + self.text[..at].matches('\n').count();
            return Err(TreeError::Malformed { line, what: "a control character".to_owned() });
        }
        loop {
            let event = self.reader.read_event();
            match event.map_err(|error| self.malformed(error.to_string()))? {
                Event::Start(tag) => self.open(&tag)?,
                Event::Empty(tag) => {
                    self.open(&tag)?;
                    self.close()?;
                }
                Event::End(_) => self.close()?,
                Event::Text(text) => self.add(&text.xml10_content())?,
                Event::CData(text) => self.add(&text.xml10_content())?,
                Event::GeneralRef(reference) => self.resolve(&reference)?,
                Event::DocType(_) => return Err(self.forbidden("a document type")),
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
                Event::Eof => return self.finish(),
            }
        }
    }

    fn open(&mut self, tag: &BytesStart<'_>) -> Result<(), TreeError> {
        if self.open.is_empty() && self.root.is_some() {
            return Err(self.malformed("there is a second root element"));
        }
        self.elements += 1;
        if self.elements > self.limits.elements {
            return Err(self.too_many("elements", self.limits.elements));
        }
        if self.open.len() >= self.limits.depth {
            return Err(self.too_many("levels of elements", self.limits.depth));
        }
        let attributes = self.attributes(tag)?;
        let (name, namespace) = self.name(tag);
        self.open.push(Element { name, namespace, attributes, ..Element::default() });
        Ok(())
    }

    /// A prefix without a namespace stays a part of the name, as in libxml2.
    fn name(&self, tag: &BytesStart<'_>) -> (String, Namespace) {
        let (namespace, local) = self.reader.resolver().resolve_element(tag.name());
        let namespace = match namespace {
            ResolveResult::Bound(bound) if bound.as_ref() == NOTIFY_NAMESPACE => Namespace::Notify,
            ResolveResult::Bound(_) => Namespace::Other,
            ResolveResult::Unbound => Namespace::None,
            ResolveResult::Unknown(_) => return (tag.name().as_ref().to_owned(), Namespace::None),
        };
        (local.as_ref().to_owned(), namespace)
    }

    fn attributes(&self, tag: &BytesStart<'_>) -> Result<Vec<(String, String)>, TreeError> {
        let mut attributes = Vec::new();
        for attribute in tag.attributes() {
            if attributes.len() >= self.limits.attributes {
                return Err(self.too_many("attributes", self.limits.attributes));
            }
            let attribute = attribute.map_err(|error| self.malformed(error.to_string()))?;
            let value = attribute.normalized_value(quick_xml::XmlVersion::Explicit1_0);
            let value = value.map_err(|error| self.malformed(error.to_string()))?;
            if !value.chars().all(allowed) {
                return Err(self.malformed("a control character"));
            }
            if attribute.key.as_namespace_binding().is_some() {
                continue;
            }
            attributes.push((attribute.key.as_ref().to_owned(), value.into_owned()));
        }
        Ok(attributes)
    }

    fn close(&mut self) -> Result<(), TreeError> {
        let Some(done) = self.open.pop() else {
            return Err(self.malformed("an element ends that has not begun"));
        };
        match self.open.last_mut() {
            Some(parent) => parent.children.push(done),
            None => self.root = Some(done),
        }
        Ok(())
    }

    fn add(&mut self, text: &str) -> Result<(), TreeError> {
        match self.open.last_mut() {
            Some(element) => element.text.push_str(text),
            None if text.chars().all(|letter| letter.is_ascii_whitespace()) => {}
            None => return Err(self.malformed("there is text outside of the root element")),
        }
        Ok(())
    }

    fn resolve(&mut self, reference: &BytesRef<'_>) -> Result<(), TreeError> {
        let letter = match reference.resolve_char_ref() {
            Ok(Some(letter)) if allowed(letter) => letter,
            Ok(Some(_)) => return Err(self.malformed("a control character")),
            Err(error) => return Err(self.malformed(error.to_string())),
            Ok(None) => match &*reference.xml10_content() {
                "lt" => '<',
                "gt" => '>',
                "amp" => '&',
                "apos" => '\'',
                "quot" => '"',
                other => return Err(self.forbidden(format!("the entity '{other}'"))),
            },
        };
        self.add(letter.encode_utf8(&mut [0; 4]))
    }

    fn finish(self) -> Result<Element, TreeError> {
        if let Some(open) = self.open.last() {
            return Err(self.malformed(format!("the element '{}' does not end", open.name)));
        }
        match self.root {
            Some(root) => Ok(root),
            None => Err(self.malformed("there is no element")),
        }
    }

    fn line(&self) -> usize {
        let at = usize::try_from(self.reader.buffer_position()).unwrap_or(usize::MAX);
        let before = self.text.as_bytes().get(..at).unwrap_or(self.text.as_bytes());
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    fn malformed(&self, what: impl Into<String>) -> TreeError {
        TreeError::Malformed { line: self.line(), what: what.into() }
    }

    fn forbidden(&self, what: impl Into<String>) -> TreeError {
        TreeError::Forbidden { line: self.line(), what: what.into() }
    }

    fn too_many(&self, what: &'static str, limit: usize) -> TreeError {
        TreeError::TooMany { line: self.line(), what, limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Element::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_tree_is_read() {
        let text = "<?xml version='1.0'?>\n<!-- c --><a x='1&amp;2' y=''>t&lt;&#65;<b/><![CDATA[<]]>\
                    <b>u</b></a>\n";
        let root = Element::parse(text).unwrap();
        assert_eq!(root.name, "a");
        assert_eq!(root.text, "t<A<");
        assert_eq!(root.attribute("x"), Some("1&2"));
        assert_eq!(root.attribute("y"), None);
        assert_eq!(root.children("b").count(), 2);
        assert_eq!(root.text_at(&["b"]), None);
    }

    #[test]
    fn namespaces_are_told_apart() {
        let text = format!(
            "<a xmlns:n='{NOTIFY_NAMESPACE}' xmlns:o='x'><n:b n:c='1'/><o:b/><p:b/><b/>\
             <b xmlns='{NOTIFY_NAMESPACE}'/></a>"
        );
        let root = Element::parse(&text).unwrap();
        let found: Vec<_> = root.children.iter().map(|c| (&*c.name, c.namespace)).collect();
        let (none, notify) = (Namespace::None, Namespace::Notify);
        let expected =
            [("b", notify), ("b", Namespace::Other), ("p:b", none), ("b", none), ("b", notify)];
        assert_eq!(found, expected);
        assert!(root.attributes.is_empty());
        assert_eq!(root.children[0].attributes, [("n:c".to_owned(), "1".to_owned())]);
        assert_eq!(root.children("b").count(), 1);
    }

    #[test]
    fn what_is_dangerous_is_refused() {
        assert!(error("<!DOCTYPE a [<!ENTITY e 'x'>]><a>&e;</a>").contains("document type"));
        assert!(error("<a>&e;</a>").contains("the entity 'e'"));
        assert!(error("<a b='&e;'/>").contains('e'));
        assert!(error(&"<a>".repeat(33)).contains("levels"));
        assert!(error(&format!("<a>{}</a>", "<b/>".repeat(10_001))).contains("elements"));
        let many: String = (0..65).map(|n| format!(" a{n}='x'")).collect();
        assert!(error(&format!("<a{many}/>")).contains("attributes"));
        assert!(error(&" ".repeat(Limits::CLIENT.size + 1)).contains("bytes"));
        assert!(error("<a>&#1;</a>").contains("control character"));
        assert!(error("<a b='&#1;'/>").contains("control character"));
        assert!(error("<a>\u{1}</a>").contains("control character"));
    }

    #[test]
    fn what_is_malformed_is_named_with_its_line() {
        for text in [
            "",
            "hello",
            "<a>",
            "<a></b>",
            "</a>",
            "<a/><b/>",
            "<a/>x",
            "<a x=1/>",
            "<a x='1' x='2'/>",
        ] {
            assert!(Element::parse(text).is_err(), "{text:?}");
        }
        assert!(error("<a>\n<b>\n</a>").starts_with("line 3"));
    }
}
