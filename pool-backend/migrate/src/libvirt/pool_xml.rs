// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a peer's pool says of itself in its XML, beside what libvirt has questions for.

use quick_xml::NsReader;
use quick_xml::events::Event;
use quick_xml::name::{Namespace, ResolveResult};

/// The namespace of what is ours in a pool's XML.
const NAMESPACE: &str = "https://virtnotify.org/xmlns/pool/1.0";

/// Whether the pool's host is drained: `<notify:drained/>`.
///
/// # Errors
/// When it is no XML.
pub(super) fn is_drained(xml: &str) -> Result<bool, quick_xml::Error> {
    let mut reader = NsReader::from_str(xml);
    let mut depth = 0u32;
    loop {
        let (namespace, event) = reader.read_resolved_event()?;
        let ours = matches!(namespace, ResolveResult::Bound(Namespace(uri)) if uri == NAMESPACE);
        match event {
            Event::Start(tag) | Event::Empty(tag)
                if ours && depth == 1 && tag.local_name().as_ref() == "drained" =>
            {
                return Ok(true);
            }
            Event::Start(_) => depth += 1,
            Event::End(_) => depth = depth.saturating_sub(1),
            Event::Eof => return Ok(false),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_word_counts() {
        let pool =
            |inside: &str| format!("<pool type='notify'><name>drained</name>{inside}</pool>");
        let ours = format!("<n:drained xmlns:n='{NAMESPACE}'/>");
        assert!(is_drained(&pool(&ours)).unwrap());
        for other in ["", "<drained/>", "<n:drained xmlns:n='urn:x'/>"] {
            assert!(!is_drained(&pool(other)).unwrap(), "{other}");
        }
        assert!(!is_drained(&pool(&format!("<source>{ours}</source>"))).unwrap());
        assert!(is_drained("<pool></source>").is_err());
    }
}
