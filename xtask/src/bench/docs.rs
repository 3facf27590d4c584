// SPDX-License-Identifier: LGPL-2.1-or-later
//! The result as it is kept in `docs/performance.md`: what stands between two markers there is
//! replaced, and the plot lies beside it.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::plot;
use super::results::Results;

const BEGIN: &str = "<!-- bench: what follows is written by `cargo xtask bench --docs` -->\n";
const END: &str = "<!-- bench: end -->\n";

/// Writes the result into the folder of documents.
pub fn keep(folder: &Path, results: &Results) -> Result<()> {
    let page = folder.join("performance.md");
    let text = std::fs::read_to_string(&page).with_context(|| format!("{}", page.display()))?;
    let text = replaced(&text, &results.tables().markdown())?;
    std::fs::write(folder.join("performance.svg"), plot::svg(results))?;
    std::fs::write(&page, text).with_context(|| format!("cannot write {}", page.display()))
}

/// The page with `new` between the markers.
fn replaced(page: &str, new: &str) -> Result<String> {
    let parts =
        page.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let Some((before, after)) = parts else {
        bail!("docs/performance.md has lost its markers: {} ... {}", BEGIN.trim(), END.trim());
    };
    Ok(format!("{before}{BEGIN}\n{new}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let page = format!("before\n{BEGIN}old\n{END}after\n");
        let once = replaced(&page, "new\n\n").unwrap();
        assert_eq!(once, format!("before\n{BEGIN}\nnew\n\n{END}after\n"));
        assert_eq!(replaced(&once, "new\n\n").unwrap(), once);
        assert!(replaced("no markers", "new").is_err());
    }

    #[test]
    fn the_page_has_its_markers() {
        let page = crate::top().unwrap().join("docs/performance.md");
        assert!(replaced(&std::fs::read_to_string(page).unwrap(), "").is_ok());
    }
}
