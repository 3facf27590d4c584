// SPDX-License-Identifier: LGPL-2.1-or-later
//! The result as it is kept in `docs/developer/performance.md`: what stands between a part's two markers there
//! is replaced when that part was measured, and the plot lies beside it.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::results::Results;
use super::{plot, tables};

/// Writes the parts that were measured into the folder of documents.
pub fn keep(folder: &Path, results: &Results, parts: &[&str]) -> Result<()> {
    let page = folder.join("performance.md");
    let mut text = std::fs::read_to_string(&page).with_context(|| format!("{}", page.display()))?;
    for part in parts.iter().filter(|part| results.has(part)) {
        let new =
            format!("{}{}", conditions(results, part)?, tables::of_part(results, part).markdown());
        text = replaced(&text, part, &new)?;
    }
    // The plot is of that part.
    if results.has("virtual") {
        std::fs::write(folder.join("performance.svg"), plot::svg(results))?;
    }
    std::fs::write(&page, text).with_context(|| format!("cannot write {}", page.display()))
}

/// With what a part was measured.
fn conditions(results: &Results, part: &str) -> Result<String> {
    let version = |name: &str| {
        let at = format!("{part}/versions/{name}");
        results.text(&at).with_context(|| format!("the result has no {at}"))
    };
    let (kernel, target, lvm) = (version("kernel")?, version("target")?, version("lvm")?);
    let (fio, qemu) = (version("fio")?, version("qemu")?);
    Ok(format!("Linux {kernel}, target {target}, LVM {lvm}, {fio}, QEMU {qemu}.\n\n"))
}

fn markers(part: &str) -> [String; 2] {
    let begin =
        format!("<!-- bench {part}: what follows is written by `cargo xtask bench --docs` -->\n");
    [begin, format!("<!-- bench {part}: end -->\n")]
}

/// The page with `new` between a part's markers.
fn replaced(page: &str, part: &str, new: &str) -> Result<String> {
    let [begin, end] = markers(part);
    let parts =
        page.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    let Some((before, after)) = parts else {
        bail!("performance.md has lost its markers: {} ... {}", begin.trim(), end.trim());
    };
    Ok(format!("{before}{begin}\n{new}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_of_a_part_changes() {
        let [begin, end] = markers("real");
        let other = markers("scale").concat();
        let page = format!("before\n{begin}old\n{end}after\n{other}");
        let once = replaced(&page, "real", "new\n\n").unwrap();
        assert_eq!(once, format!("before\n{begin}\nnew\n\n{end}after\n{other}"));
        assert_eq!(replaced(&once, "real", "new\n\n").unwrap(), once);
        assert!(replaced("no markers", "real", "new").is_err());
    }

    #[test]
    fn the_page_has_its_markers() {
        let page = crate::top().unwrap().join("docs/developer/performance.md");
        let page = std::fs::read_to_string(page).unwrap();
        for part in super::super::PARTS {
            assert!(replaced(&page, part, "").is_ok(), "{part}");
        }
    }
}
