// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the documents say of the checkout is so: their links lead somewhere, and the configuration's
//! page has each key.

use std::path::{Path, PathBuf};

/// Folders that hold documents.
const FOLDERS: [&str; 4] = ["", "docs", "docs/operator", "docs/developer"];

/// All documents, as paths from the top.
fn documents() -> Vec<PathBuf> {
    let top = crate::top().unwrap();
    let files = FOLDERS.into_iter().flat_map(|folder| {
        let entries = std::fs::read_dir(top.join(folder)).unwrap();
        entries.map(move |entry| Path::new(folder).join(entry.unwrap().file_name()))
    });
    files.filter(|path| path.extension().is_some_and(|ext| ext == "md")).collect()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(crate::top().unwrap().join(path)).unwrap()
}

/// Where the links of a text lead, but for addresses elsewhere.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target).filter(|target| !target.contains("://"))
}

/// What a heading is called in a link: in small letters, without its signs.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn has_heading(text: &str, wanted: &str) -> bool {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#').trim())).any(|name| name == wanted)
}

#[test]
fn links_lead_somewhere() {
    let top = crate::top().unwrap();
    let mut seen = 0;
    for document in documents() {
        let text = read(&document);
        for link in links(&text) {
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let to = match path {
                "" => document.clone(),
                _ => document.parent().unwrap().join(path),
            };
            assert!(top.join(&to).exists(), "{}: there is no {link}", document.display());
            let found = heading.is_empty() || has_heading(&read(&to), heading);
            assert!(found, "{}: no heading {link}", document.display());
            seen += 1;
        }
    }
    assert!(seen > 50);
}

#[test]
fn each_key_of_the_configuration_is_on_its_page() {
    let page = read(Path::new("docs/operator/configuration.md"));
    for file in ["packaging/virtnotify.toml", "packaging/proxy.toml"] {
        let text = read(Path::new(file));
        let keys = text.lines().filter_map(|line| line.strip_prefix('#')?.split_once(" = "));
        let keys: Vec<_> = keys.map(|(key, _)| key).filter(|key| !key.contains(' ')).collect();
        assert!(keys.len() > 3);
        for key in keys {
            assert!(page.contains(&format!("`{key}`")), "the page lacks '{key}' of {file}");
        }
    }
}
