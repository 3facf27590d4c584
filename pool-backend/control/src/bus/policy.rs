// SPDX-License-Identifier: LGPL-2.1-or-later
//! The settings of a pool's policy as they come over the bus: values become the text that they are written as, and
//! virtnotifyd reads them as it reads a pool's XML.

use zbus::Variant;

use super::error::Error;
use super::options::Given;

/// The settings in their order by name.
pub fn settings(given: &Given) -> Result<Vec<(String, String)>, Error> {
    if given.is_empty() {
        return Err(Error::InvalidArgument("no setting is named: nothing is changed".to_owned()));
    }
    let setting = |(name, value): (&String, &zbus::OwnedVariant)| match text(value) {
        Some(text) => Ok((name.clone(), text)),
        None => {
            let name = name.escape_debug();
            let text = format!("'{name}' has none of the types 's', 't', 'u', 'd' and 'b'");
            Err(Error::InvalidArgument(text))
        }
    };
    let mut all = given.iter().map(setting).collect::<Result<Vec<_>, _>>()?;
    all.sort();
    Ok(all)
}

/// A setting as the log has it: on one line, whatever a client has sent.
pub fn told((name, value): &(String, String)) -> String {
    format!("{name}={}", value.trim().escape_debug())
}

fn text(value: &Variant<'_>) -> Option<String> {
    match value {
        Variant::Str(text) => Some(text.to_string()),
        Variant::U64(bytes) => Some(format!("{bytes}B")),
        Variant::U32(number) => Some(number.to_string()),
        Variant::F64(ratio) => Some(ratio.to_string()),
        Variant::Bool(true) => Some("yes".to_owned()),
        Variant::Bool(false) => Some("no".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_what_is_written() {
        let given = |values: Vec<(&str, Variant<'_>)>| {
            let values = values.into_iter();
            let owned = |(name, value): (&str, Variant<'_>)| {
                (name.to_owned(), value.try_to_owned().unwrap())
            };
            settings(&values.map(owned).collect::<Given>())
        };
        let all = given(vec![
            ("overcommit", 1.5f64.into()),
            ("bandwidth", 7u64.into()),
            ("movable", false.into()),
            ("daily", 3u32.into()),
            ("low-mark", "10%".into()),
        ]);
        let all = all.unwrap();
        let all: Vec<_> = all.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let expected = [
            ("bandwidth", "7B"),
            ("daily", "3"),
            ("low-mark", "10%"),
            ("movable", "no"),
            ("overcommit", "1.5"),
        ];
        assert_eq!(all, expected);
        let window = ("window".to_owned(), " 22:00-\n06:30 ".to_owned());
        assert_eq!(told(&window), r"window=22:00-\n06:30");
        assert!(matches!(given(vec![]), Err(Error::InvalidArgument(_))));
        let signed = given(vec![("bandwidth", (-1i64).into())]);
        assert!(matches!(signed, Err(Error::InvalidArgument(_))));
    }
}
