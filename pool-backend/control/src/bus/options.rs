// SPDX-License-Identifier: LGPL-2.1-or-later
//! Arguments that may be left out: `a{sv}`, as in udisks2. What is not known is refused, since a newer daemon may
//! know it.

use std::collections::HashMap;

use virtnotify_model::Bytes;
use zbus::{OwnedVariant, Variant};

use super::error::Error;

/// As they come.
pub type Given = HashMap<String, OwnedVariant>;

/// Options, all of which are known.
#[derive(Debug)]
pub struct Options(Given);

impl Options {
    /// Takes these options, and no others.
    pub fn of(given: Given, known: &[&str]) -> Result<Self, Error> {
        match given.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => {
                let name = name.escape_debug();
                Err(Error::InvalidArgument(format!("there is no option '{name}'")))
            }
            None => Ok(Self(given)),
        }
    }

    /// Refuses all: there are none yet.
    pub fn none(given: Given) -> Result<(), Error> {
        Self::of(given, &[]).map(drop)
    }

    /// A `b`; without it, no.
    pub fn flag(&self, name: &str) -> Result<bool, Error> {
        match self.0.get(name).map(|value| &**value) {
            None => Ok(false),
            Some(Variant::Bool(flag)) => Ok(*flag),
            Some(_) => Err(wrong_type(name, "b")),
        }
    }

    /// A `t` in bytes, if it is there.
    pub fn size(&self, name: &str) -> Result<Option<Bytes>, Error> {
        match self.0.get(name).map(|value| &**value) {
            None => Ok(None),
            Some(Variant::U64(bytes)) => Ok(Some(Bytes(*bytes))),
            Some(_) => Err(wrong_type(name, "t")),
        }
    }
}

fn wrong_type(name: &str, wanted: &str) -> Error {
    Error::InvalidArgument(format!("the option '{name}' has the type '{wanted}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_is_taken() {
        let given = |name: &str, value: Variant<'_>| {
            Given::from([(name.to_owned(), value.try_to_owned().unwrap())])
        };
        let options = |given| Options::of(given, &["shrink", "capacity"]);
        assert!(!options(Given::new()).unwrap().flag("shrink").unwrap());
        assert!(options(given("shrink", true.into())).unwrap().flag("shrink").unwrap());
        let size = options(given("capacity", 7u64.into())).unwrap().size("capacity").unwrap();
        assert_eq!(size, Some(Bytes(7)));
        for (refused, text) in [
            (options(given("force", true.into())).unwrap_err(), "there is no option 'force'"),
            (Options::none(given("shrink", true.into())).unwrap_err(), "no option 'shrink'"),
            (
                options(given("shrink", 1u64.into())).unwrap().flag("shrink").unwrap_err(),
                "'shrink' has the type 'b'",
            ),
            (
                options(given("capacity", "7".into())).unwrap().size("capacity").unwrap_err(),
                "'capacity' has the type 't'",
            ),
        ] {
            assert!(matches!(&refused, Error::InvalidArgument(said) if said.contains(text)));
        }
    }
}
