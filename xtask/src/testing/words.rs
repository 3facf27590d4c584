// SPDX-License-Identifier: LGPL-2.1-or-later
//! The words that choose tests by parts of their names.

use std::sync::atomic::{AtomicBool, Ordering};

/// Words, and whether each has chosen a test.
pub struct Words<'a>(Vec<(&'a str, AtomicBool)>);

impl<'a> Words<'a> {
    /// None of them has chosen one yet.
    pub fn new(words: &'a [String]) -> Self {
        Self(words.iter().map(|word| (word.as_str(), AtomicBool::new(false))).collect())
    }

    /// Whether a test of that name is to run: one of the words is in its name, or there are none.
    pub fn choose(&self, name: &str) -> bool {
        let mut found = self.0.is_empty();
        for (_, used) in self.0.iter().filter(|(word, _)| name.contains(word)) {
            used.store(true, Ordering::Relaxed);
            found = true;
        }
        found
    }

    /// Those that have chosen none: a name that is misspelt, or gone.
    pub fn unused(&self) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(|(_, used)| !used.load(Ordering::Relaxed)).map(|(word, _)| *word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_chooses_nothing_is_known() {
        let words = ["dm/0", "01-", "lab/tset"].map(str::to_owned);
        let words = Words::new(&words);
        assert!(words.choose("dm/01-base") && !words.choose("dm/11-talk"));
        assert_eq!(words.unused().collect::<Vec<_>>(), ["lab/tset"]);
    }

    #[test]
    fn without_words_all_are_chosen() {
        let none = Words::new(&[]);
        assert!(none.choose("clippy"));
        assert_eq!(none.unused().count(), 0);
    }
}
