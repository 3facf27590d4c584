// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a peer's pool says of itself in its XML, beside what libvirt has questions for.

use quick_xml::NsReader;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{Namespace, ResolveResult};
use virtnotify_model::{Bytes, ChunkSize};

/// The namespace of what is ours in a pool's XML.
const NAMESPACE: &str = "https://virtnotify.org/xmlns/pool/1.0";

/// What a pool's XML says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PoolXml {
    /// Whether it is of type `notify`.
    pub notify: bool,
    /// Whether its host is drained: `<notify:drained/>`.
    pub drained: bool,
    /// Its chunk size: `<notify:chunk unit='bytes'>`.
    pub chunk: Option<ChunkSize>,
}

/// Which text is being read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum In {
    Nothing,
    Chunk,
}

/// Reads it.
///
/// # Errors
/// When it is no XML.
pub(super) fn read(xml: &str) -> Result<PoolXml, quick_xml::Error> {
    let mut reader = NsReader::from_str(xml);
    let (mut depth, mut within) = (0u32, In::Nothing);
    let mut found = PoolXml::default();
    loop {
        let (namespace, event) = reader.read_resolved_event()?;
        let ours = matches!(namespace, ResolveResult::Bound(Namespace(uri)) if uri == NAMESPACE);
        let begins = match &event {
            Event::Start(tag) | Event::Empty(tag) => Some(tag),
            _ => None,
        };
        let name = begins.map(|tag| tag.local_name().as_ref().to_owned());
        match (depth, ours, name.as_deref()) {
            (_, _, None) => {}
            (0, false, _) => found.notify = begins.is_some_and(is_notify),
            (1, true, Some("drained")) => found.drained = true,
            (1, true, Some("chunk")) => within = In::Chunk,
            (1, ..) => within = In::Nothing,
            _ => {}
        }
        match event {
            Event::Start(_) => depth += 1,
            Event::End(_) => {
                depth = depth.saturating_sub(1);
                within = if depth >= 2 { within } else { In::Nothing };
            }
            Event::Text(text) if within == In::Chunk => {
                let bytes = text.trim().parse().ok().map(Bytes);
                found.chunk = bytes.and_then(|bytes| ChunkSize::new(bytes).ok());
            }
            Event::Eof => return Ok(found),
            _ => {}
        }
    }
}

/// Whether it is of our type.
fn is_notify(tag: &BytesStart<'_>) -> bool {
    let mut attributes = tag.attributes().flatten();
    attributes.any(|of| (of.key.as_ref(), of.value.as_ref()) == ("type", "notify"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_word_counts() {
        let pool =
            |inside: &str| format!("<pool type='notify'><name>drained</name>{inside}</pool>");
        let drained = |xml: &str| read(xml).unwrap().drained;
        let ours = format!("<n:drained xmlns:n='{NAMESPACE}'/>");
        assert!(drained(&pool(&ours)));
        for other in ["", "<drained/>", "<n:drained xmlns:n='urn:x'/>"] {
            assert!(!drained(&pool(other)), "{other}");
        }
        assert!(!drained(&pool(&format!("<source>{ours}</source>"))));
        assert!(read("<pool></source>").is_err());
    }

    #[test]
    fn its_type_and_its_chunk_size() {
        let chunk = |text: &str| {
            let ours = format!("<n:chunk xmlns:n='{NAMESPACE}' unit='bytes'>{text}</n:chunk>");
            read(&format!("<pool type='notify'>{ours}<name>1048576</name></pool>")).unwrap()
        };
        let mib = ChunkSize::new(Bytes::mib(1)).unwrap();
        assert_eq!(
            chunk("1048576"),
            PoolXml { notify: true, chunk: Some(mib), ..PoolXml::default() }
        );
        for none in ["", "x", "5"] {
            assert_eq!(chunk(none).chunk, None, "{none}");
        }
        let other = "<pool type='dir'><chunk>1048576</chunk><x type='notify'/></pool>";
        assert_eq!(read(other).unwrap(), PoolXml::default());
    }
}
