// SPDX-License-Identifier: LGPL-2.1-or-later
//! The man pages of the configuration files, made from the files that are installed: these show each key with its
//! default and its meaning, which tests of the daemons see to.

/// A configuration file that has a page.
struct File {
    /// The name of the page.
    page: &'static str,
    /// Where it is installed.
    path: &'static str,
    /// What it is, after its name.
    what: &'static str,
    text: &'static str,
    see: &'static [&'static str],
}

const FILES: [File; 2] = [
    File {
        page: "virtnotify.toml",
        path: "/etc/virtnotify/virtnotify.toml",
        what: "configuration of virtnotifyd and virtnotify-control",
        text: include_str!("../../../packaging/virtnotify.toml"),
        see: &["virtnotifyd(8)", "virtnotify-control(8)", "virt-notify-setup(1)"],
    },
    File {
        page: "virtnotify-proxy.toml",
        path: "/etc/virtnotify/proxy.toml",
        what: "configuration of virtnotify-proxy",
        text: include_str!("../../../packaging/proxy.toml"),
        see: &["virtnotify-proxy(8)", "polkit(8)"],
    },
];

/// A part of a file, between two empty lines.
#[derive(Debug, Default, PartialEq, Eq)]
struct Part {
    /// What stands before its keys.
    about: String,
    /// The table that it begins, as `[move]`.
    table: Option<String>,
    keys: Vec<Key>,
}

#[derive(Debug, PartialEq, Eq)]
struct Key {
    name: String,
    default: String,
    meaning: String,
}

/// All pages, by their paths below `packaging`.
pub fn all() -> Vec<(String, String)> {
    FILES.iter().map(|file| (format!("man/{}.5", file.page), page(file))).collect()
}

fn page(file: &File) -> String {
    let mut parts = parts(file.text).into_iter();
    let about = parts.next().unwrap_or_default().about;
    let (page, path) = (quoted(file.page), quoted(file.path));
    let mut text = format!(
        ".TH {page} 5 \"\" \"virtnotify\"\n.SH NAME\n{page} \\- {}\n.SH SYNOPSIS\n\\fI{path}\\fR\n\
         .SH DESCRIPTION\n{}\n.PP\nThe form is that of TOML.\n.SH KEYS\n",
        quoted(file.what),
        quoted(&about),
    );
    for part in parts {
        if let Some(table) = &part.table {
            text.push_str(&format!(".SS {}\n", quoted(table)));
        }
        if !part.about.is_empty() {
            text.push_str(&format!(".PP\n{}\n", quoted(&part.about)));
        }
        for Key { name, default, meaning } in &part.keys {
            let (name, default) = (quoted(name), quoted(default));
            text.push_str(&format!(".TP\n\\fB{name}\\fR = \\fI{default}\\fR\n"));
            if !meaning.is_empty() {
                text.push_str(&format!("{}\n", quoted(meaning)));
            }
        }
    }
    let see: Vec<String> = file.see.iter().map(|page| quoted(page)).collect();
    text.push_str(&format!(".SH SEE ALSO\n{}\n", see.join(", ")));
    text
}

/// The parts of a file that has all of its keys in comments; the first one says what it is.
fn parts(text: &str) -> Vec<Part> {
    let mut parts = vec![Part::default()];
    for line in text.lines().filter(|line| !line.contains("SPDX-License-Identifier")) {
        let Some(part) = parts.last_mut() else { break };
        match (line.trim(), line.starts_with('#')) {
            ("", _) if *part == Part::default() => {}
            ("", _) => parts.push(Part::default()),
            ("#", _) => {}
            // What goes on with the meaning of the key above.
            (line, false) => {
                if let Some(key) = part.keys.last_mut() {
                    join(&mut key.meaning, line.trim_start_matches('#'));
                }
            }
            (line, true) => read(line.trim_start_matches('#'), part),
        }
    }
    parts
}

/// Reads a line without the `#` that makes a comment of it.
fn read(line: &str, part: &mut Part) {
    if line.starts_with(' ') {
        return join(&mut part.about, line);
    }
    if line.starts_with('[') {
        part.table = Some(line.to_owned());
        return;
    }
    let (name, rest) = line.split_once(" = ").unwrap_or((line, ""));
    let (default, meaning) = rest.split_once('#').unwrap_or((rest, ""));
    let [name, default, meaning] = [name, default, meaning].map(|word| word.trim().to_owned());
    part.keys.push(Key { name, default, meaning });
}

fn join(text: &mut String, more: &str) {
    if !text.is_empty() {
        text.push(' ');
    }
    text.push_str(more.trim());
}

/// Text as it stands in a page.
fn quoted(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_by_its_parts() {
        let text = "# SPDX-License-Identifier: X\n#\n# What it is,\n# in two lines.\n\n#[move]\n\
                    #retry = 15   # seconds\n               # ... or so\n\n# How many.\n#most = 5\n";
        let key = |name: &str, default: &str, meaning: &str| Key {
            name: name.into(),
            default: default.into(),
            meaning: meaning.into(),
        };
        let first = Part { about: "What it is, in two lines.".into(), ..Part::default() };
        let keys = vec![key("retry", "15", "seconds ... or so")];
        let second = Part { table: Some("[move]".into()), keys, ..Part::default() };
        let keys = vec![key("most", "5", "")];
        let third = Part { about: "How many.".into(), keys, ..Part::default() };
        assert_eq!(parts(text), [first, second, third]);
    }

    #[test]
    fn a_page_has_all_keys_of_its_file() {
        for file in FILES {
            let page = page(&file);
            let keys =
                file.text.lines().filter_map(|line| line.strip_prefix('#')?.split_once(" = "));
            let names: Vec<&str> =
                keys.map(|(name, _)| name).filter(|name| !name.starts_with(' ')).collect();
            assert!(names.len() > 5, "{names:?}");
            for name in names {
                assert!(page.contains(&format!("\n\\fB{name}\\fR = ")), "{name}");
            }
            assert!(!page.contains("\n\n"), "{page}");
        }
    }
}
