// SPDX-License-Identifier: LGPL-2.1-or-later
//! Man pages and completions, made from the definitions. What is in `packaging/man` and
//! `packaging/completions` is this, and a test sees to it that it stays so.

use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;

use crate::args::{Args, code};
use crate::client::Problem;
use crate::settings_page;

const NAME: &str = "virt-notify";
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];
/// Licence lines, in the comments of each kind of file.
const ROFF: &str = ".\\\" SPDX-License-Identifier: LGPL-2.1-or-later\n";
const SHELL: &str = "# SPDX-License-Identifier: LGPL-2.1-or-later\n";

/// `generate`.
pub fn run(directory: &Path) -> Result<u8, Problem> {
    let failed = |e: io::Error| Problem::Cannot(format!("cannot generate: {e}"));
    for (name, text) in all().map_err(failed)? {
        let path = directory.join(name);
        let parent = path.parent().unwrap_or(directory);
        fs::create_dir_all(parent).and_then(|()| fs::write(&path, text)).map_err(failed)?;
    }
    Ok(code::FINE)
}

/// All files, by their paths below `packaging`.
fn all() -> io::Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    let mut command = Args::command();
    command.build();
    let shown: Vec<_> = command.get_subcommands().filter(|c| !c.is_hide_set()).cloned().collect();
    let pages = shown.iter().flat_map(|page| with_children(page, NAME));
    for (name, page) in [(NAME.to_owned(), command.clone())].into_iter().chain(pages) {
        let page = page.name(leak(&name));
        let mut text = Vec::new();
        clap_mangen::Man::new(page).render(&mut text)?;
        files.push((format!("man/{name}.1"), ROFF.to_owned() + &utf8(text)?));
    }
    let settings = settings_page::all().into_iter();
    files.extend(settings.map(|(name, text)| (name, ROFF.to_owned() + &text)));
    for shell in SHELLS {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut Args::command(), NAME, &mut text);
        let text = utf8(text)?;
        // zsh wants its `#compdef` in the first line.
        let text = match text.strip_prefix("#compdef virt-notify\n") {
            Some(rest) => format!("#compdef virt-notify\n{SHELL}{rest}"),
            None => SHELL.to_owned() + &text,
        };
        files.push((format!("completions/{NAME}.{shell}"), text));
    }
    Ok(files)
}

/// A command and what is below it, with the names of their pages.
fn with_children(command: &Command, parent: &str) -> Vec<(String, Command)> {
    if command.get_name() == "help" {
        return Vec::new();
    }
    let name = format!("{parent}-{}", command.get_name());
    let below = command.get_subcommands().flat_map(|child| with_children(child, &name));
    let below: Vec<_> = below.collect();
    [(name, command.clone())].into_iter().chain(below).collect()
}

fn utf8(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(io::Error::other)
}

/// clap keeps names for as long as the program runs.
fn leak(name: &str) -> &'static str {
    Box::leak(name.to_owned().into_boxed_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packaged_is_what_is_generated() {
        let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging");
        let installed = fs::read_to_string(packaging.join("install.list")).unwrap();
        for (name, text) in all().unwrap() {
            assert!(installed.contains(&format!(" packaging/{name} ")), "{name} is not installed");
            let there = fs::read_to_string(packaging.join(&name)).unwrap_or_default();
            assert!(
                there == text,
                "packaging/{name} is out of date: run 'cargo run -p virt-notify -- generate packaging'"
            );
        }
    }
}
