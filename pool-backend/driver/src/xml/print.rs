// SPDX-License-Identifier: LGPL-2.1-or-later
//! Printing XML in libvirt's layout: two blanks a level, attributes in single quotes.

use std::fmt::Display;

/// XML being written.
#[derive(Debug, Default)]
pub struct Printer {
    out: String,
    depth: usize,
}

impl Printer {
    /// Writes `<tag>` with what `inside` writes; `tag` may hold attributes.
    pub fn block(&mut self, tag: &str, inside: impl FnOnce(&mut Self)) {
        self.line(&format!("<{tag}>"));
        self.depth += 1;
        inside(self);
        self.depth -= 1;
        let name = tag.split(' ').next().unwrap_or(tag);
        self.line(&format!("</{name}>"));
    }

    /// Writes `<tag>value</tag>`.
    pub fn value(&mut self, tag: &str, value: impl Display) {
        let name = tag.split(' ').next().unwrap_or(tag);
        self.line(&format!("<{tag}>{}</{name}>", escape(&value.to_string())));
    }

    /// Writes `<tag>value</tag>` if there is a value.
    pub fn optional(&mut self, tag: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.value(tag, value);
        }
    }

    /// Writes `<tag name='value'/>`.
    pub fn empty(&mut self, tag: &str, name: &str, value: impl Display) {
        self.line(&format!("<{tag} {name}='{}'/>", escape(&value.to_string())));
    }

    fn line(&mut self, text: &str) {
        for _ in 0..self.depth {
            self.out.push_str("  ");
        }
        self.out.push_str(text);
        self.out.push('\n');
    }

    /// All that was written.
    #[must_use]
    pub fn finish(self) -> String {
        self.out
    }
}

/// Escapes what libvirt escapes, in text and in attributes; and the blanks that a reader
/// would otherwise turn into others.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\r' => out.push_str("&#13;"),
            _ => out.push(letter),
        }
    }
    out
}
