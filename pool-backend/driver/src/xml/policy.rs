// SPDX-License-Identifier: LGPL-2.1-or-later
//! `<notify:policy>`, what a pool does by itself, and `<notify:chunk>`, the size of its chunks.
//!
//! Both are in a namespace of their own, as what libvirt's other pool types have beyond the common
//! XML. Elements that are left out have their defaults.

use virtnotify_model::{
    AtLowMark, Bytes, ChunkSize, GrowthLimits, LowMark, Overcommit, Policy, TimeOfDay, UnitError,
    WhenFull, Window, word_of,
};

use super::print::Printer;
use super::tree::{Element, NOTIFY_NAMESPACE, Namespace};
use super::{XmlError, scale};

const YES_NO: [(&str, bool); 2] = [("yes", true), ("no", false)];

/// The policy in a pool's XML, if there is one.
///
/// # Errors When a value is invalid, or two of them exclude each other.
pub(super) fn policy(pool: &Element) -> Result<Option<Policy>, XmlError> {
    let Some(element) = ours(pool, "policy") else { return Ok(None) };
    let default = Policy::default();
    let low = ours(element, "lowMark");
    let migration = ours(element, "migration");
    let policy = Policy {
        low_mark: low.map_or(Ok(default.low_mark), low_mark)?,
        at_low_mark: choice(low, "action", &AtLowMark::WORDS)?.unwrap_or(default.at_low_mark),
        when_full: choice(ours(element, "full"), "action", &WhenFull::WORDS)?
            .unwrap_or(default.when_full),
        largest_volume: size(Some(element), "largestVolume")?,
        overcommit: overcommit(element)?,
        growth: growth(ours(element, "growth"))?,
        passdown: choice(ours(element, "passdown"), "enabled", &YES_NO)?
            .unwrap_or(default.passdown),
        movable: choice(migration, "allowed", &YES_NO)?.unwrap_or(default.movable),
        bandwidth: size(migration, "bandwidth")?,
        window: migration.and_then(|of| ours(of, "window")).map(window).transpose()?,
        daily: migration.and_then(|of| ours(of, "daily")).map(daily).transpose()?,
    };
    checked(policy).map(Some)
}

/// A policy in which some settings are others: each a name, as [`Policy::settings`] has it, and its value as text.
///
/// # Errors
/// When there is no such setting, a value is none, or two of them exclude each other.
pub fn changed_policy(
    before: Option<Policy>,
    settings: &[(String, String)],
) -> Result<Policy, XmlError> {
    let mut policy = before.unwrap_or_default();
    for (at, (name, value)) in settings.iter().enumerate() {
        if settings[..at].iter().any(|(other, _)| other == name) {
            return Err(XmlError::Malformed(format!("'{}' is set twice", short(name))));
        }
        set(&mut policy, name, value)?;
    }
    checked(policy)
}

fn set(policy: &mut Policy, name: &str, value: &str) -> Result<(), XmlError> {
    // A number, and what stands behind it.
    let at = value.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(value.len());
    let (number, unit) = value.split_at(at);
    let unit = Some(unit.trim()).filter(|unit| !unit.is_empty());
    let limit = || match value {
        "none" => Ok(None),
        _ => size_of(name, number, unit).map(Some),
    };
    match name {
        // Easily a percentage in which the sign was forgotten.
        "low-mark" if unit.is_none() && number.bytes().any(|digit| digit != b'0') => {
            return Err(XmlError::Malformed(format!(
                "'low-mark' needs a unit: {number}% of the pool, or a size such as {number}GiB"
            )));
        }
        "low-mark" => policy.low_mark = mark_of(name, number, unit)?,
        "at-low-mark" => policy.at_low_mark = word(name, value, &AtLowMark::WORDS)?,
        "when-full" => policy.when_full = word(name, value, &WhenFull::WORDS)?,
        "largest-volume" => policy.largest_volume = limit()?,
        "overcommit" => {
            // Without a unit it is a multiple.
            policy.overcommit = match value.parse() {
                Ok(ratio) => Some(Overcommit::Ratio(ratio)),
                Err(()) if unit.is_none() && value != "none" => return Err(no_value(name)),
                Err(()) => limit()?.map(Overcommit::Size),
            }
        }
        "growth-least" => policy.growth.least = limit()?,
        "growth-most" => policy.growth.most = limit()?,
        "passdown" => policy.passdown = word(name, value, &YES_NO)?,
        "movable" => policy.movable = word(name, value, &YES_NO)?,
        "bandwidth" => policy.bandwidth = limit()?,
        "window" if value.trim() == "none" => policy.window = None,
        "window" => {
            let (from, to) = value.split_once('-').ok_or_else(|| no_value(name))?;
            policy.window = Some(window_of(from, to)?);
        }
        "daily" if value == "none" => policy.daily = None,
        "daily" => policy.daily = Some(daily_of(value)?),
        _ => {
            let name = short(name);
            return Err(XmlError::Malformed(format!("a policy has no setting '{name}'")));
        }
    }
    Ok(())
}

/// What excludes each other.
fn checked(policy: Policy) -> Result<Policy, XmlError> {
    match (policy.growth.least, policy.growth.most) {
        (Some(least), Some(most)) if least > most => Err(XmlError::Malformed(format!(
            "a volume cannot grow by at least {least} and at most {most}"
        ))),
        _ => Ok(policy),
    }
}

/// The chunk size in a pool's XML, if there is one.
///
/// # Errors
/// When no chunk can have that size.
pub(super) fn chunk(pool: &Element) -> Result<Option<ChunkSize>, XmlError> {
    let unusable = |error: UnitError| XmlError::Malformed(error.to_string());
    size(Some(pool), "chunk")?.map(ChunkSize::new).transpose().map_err(unusable)
}

fn ours<'a>(element: &'a Element, name: &str) -> Option<&'a Element> {
    element.child_in(Namespace::Notify, name)
}

/// A size in an element of that name.
fn size(parent: Option<&Element>, name: &str) -> Result<Option<Bytes>, XmlError> {
    let element = parent.and_then(|parent| ours(parent, name));
    element.map(|of| size_of(name, &of.text, of.attribute("unit"))).transpose()
}

/// A size; zero would be no limit, and is refused.
fn size_of(name: &str, number: &str, unit: Option<&str>) -> Result<Bytes, XmlError> {
    match scale::size(number, unit) {
        Ok(Bytes::ZERO) => {
            Err(XmlError::Malformed(format!("the policy's '{name}' cannot be zero")))
        }
        Err(XmlError::Malformed(_)) => Err(no_value(name)),
        size => size,
    }
}

fn no_value(name: &str) -> XmlError {
    XmlError::Malformed(format!("malformed {name}"))
}

fn low_mark(element: &Element) -> Result<LowMark, XmlError> {
    match element.text.as_str() {
        "" => Ok(LowMark::default()),
        text => mark_of("lowMark", text, element.attribute("unit")),
    }
}

fn mark_of(name: &str, number: &str, unit: Option<&str>) -> Result<LowMark, XmlError> {
    if unit == Some("%") {
        let percent = number.parse().ok().filter(|percent| *percent <= 100);
        return percent.map(LowMark::Percent).ok_or_else(|| no_value(name));
    }
    match scale::size(number, unit) {
        Err(XmlError::Malformed(_)) => Err(no_value(name)),
        size => size.map(LowMark::Size),
    }
}

fn overcommit(policy: &Element) -> Result<Option<Overcommit>, XmlError> {
    let ratio = |element: &&Element| element.attribute("unit") == Some("ratio");
    match ours(policy, "overcommit").filter(ratio) {
        Some(element) => match element.text.parse() {
            Ok(ratio) => Ok(Some(Overcommit::Ratio(ratio))),
            Err(()) => Err(no_value("overcommit")),
        },
        None => Ok(size(Some(policy), "overcommit")?.map(Overcommit::Size)),
    }
}

fn growth(element: Option<&Element>) -> Result<GrowthLimits, XmlError> {
    Ok(GrowthLimits { least: size(element, "least")?, most: size(element, "most")? })
}

fn window(element: &Element) -> Result<Window, XmlError> {
    let of = |key| element.attribute(key).unwrap_or_default();
    window_of(of("from"), of("to"))
}

fn window_of(from: &str, to: &str) -> Result<Window, XmlError> {
    let time = |key: &str, text: &str| {
        text.trim().parse::<TimeOfDay>().map_err(|_| {
            XmlError::Malformed(format!("the policy's window has no time of day '{key}', as 22:00"))
        })
    };
    let window = Window { from: time("from", from)?, to: time("to", to)? };
    match window.from == window.to {
        true => Err(XmlError::Malformed("the policy's window begins when it ends".to_owned())),
        false => Ok(window),
    }
}

/// None at all is what `allowed` and the low mark's action are for.
fn daily(element: &Element) -> Result<u32, XmlError> {
    daily_of(&element.text)
}

fn daily_of(text: &str) -> Result<u32, XmlError> {
    let digits = Some(text).filter(|text| text.bytes().all(|digit| digit.is_ascii_digit()));
    let number = digits.and_then(|digits| digits.parse().ok());
    number.filter(|number| *number > 0).ok_or_else(|| no_value("daily"))
}

fn choice<T: Copy>(
    element: Option<&Element>,
    attribute: &str,
    choices: &[(&str, T)],
) -> Result<Option<T>, XmlError> {
    let value = element.and_then(|element| element.attribute(attribute));
    value.map(|value| word(attribute, value, choices)).transpose()
}

fn word<T: Copy>(name: &str, value: &str, words: &[(&str, T)]) -> Result<T, XmlError> {
    match words.iter().find(|(word, _)| *word == value) {
        Some((_, choice)) => Ok(*choice),
        None => {
            let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            Err(XmlError::Malformed(format!(
                "the policy's '{name}' cannot be '{}', only one of: {}",
                short(value),
                names.join(", ")
            )))
        }
    }
}

/// Enough of a text to recognise it in a sentence.
fn short(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

/// Prints what is there.
pub(super) fn print(out: &mut Printer, chunk: Option<ChunkSize>, policy: Option<&Policy>) {
    if let Some(chunk) = chunk {
        let tag = format!("notify:chunk xmlns:notify='{NOTIFY_NAMESPACE}' unit='bytes'");
        out.value(&tag, chunk.bytes().0);
    }
    if let Some(policy) = policy {
        let tag = format!("notify:policy xmlns:notify='{NOTIFY_NAMESPACE}'");
        out.block(&tag, |out| print_policy(out, policy));
    }
}

fn print_policy(out: &mut Printer, policy: &Policy) {
    let (unit, mark) = match policy.low_mark {
        LowMark::Percent(percent) => ("%", u64::from(percent)),
        LowMark::Size(size) => ("bytes", size.0),
    };
    let action = word_of(&AtLowMark::WORDS, policy.at_low_mark);
    out.value(&format!("notify:lowMark unit='{unit}' action='{action}'"), mark);
    out.empty("notify:full", "action", word_of(&WhenFull::WORDS, policy.when_full));
    print_size(out, "largestVolume", policy.largest_volume);
    match policy.overcommit {
        Some(Overcommit::Ratio(ratio)) => out.value("notify:overcommit unit='ratio'", ratio),
        Some(Overcommit::Size(size)) => print_size(out, "overcommit", Some(size)),
        None => {}
    }
    if policy.growth != GrowthLimits::default() {
        out.block("notify:growth", |out| {
            print_size(out, "least", policy.growth.least);
            print_size(out, "most", policy.growth.most);
        });
    }
    if policy.passdown {
        out.empty("notify:passdown", "enabled", word_of(&YES_NO, true));
    }
    let allowed = word_of(&YES_NO, policy.movable);
    let Policy { bandwidth, window, daily, .. } = *policy;
    if bandwidth.is_none() && window.is_none() && daily.is_none() {
        return out.empty("notify:migration", "allowed", allowed);
    }
    out.block(&format!("notify:migration allowed='{allowed}'"), |out| {
        print_size(out, "bandwidth", bandwidth);
        if let Some(Window { from, to }) = window {
            out.empty(&format!("notify:window from='{from}'"), "to", to);
        }
        out.optional("notify:daily", daily);
    });
}

fn print_size(out: &mut Printer, name: &str, size: Option<Bytes>) {
    out.optional(&format!("notify:{name} unit='bytes'"), size.map(|size| size.0));
}

#[cfg(test)]
mod tests {
    use super::super::{PoolDefinition, PoolType, Standing};
    use super::*;

    fn pool(inside: &str) -> Result<PoolDefinition, XmlError> {
        let text = format!(
            "<pool type='notify' xmlns:n='{NOTIFY_NAMESPACE}'><name>vms</name>{inside}</pool>"
        );
        PoolDefinition::parse(&text, false)
    }

    fn read(inside: &str) -> Result<Policy, XmlError> {
        Ok(pool(&format!("<n:policy>{inside}</n:policy>"))?.spec().policy)
    }

    #[test]
    fn without_any_it_is_the_default_and_nothing_is_printed() {
        let plain = pool("").unwrap();
        assert_eq!(plain.spec().policy, Policy::default());
        assert!(!plain.print(PoolType::Notify, &Standing::default()).contains("policy"));
        assert_eq!(read("").unwrap(), Policy::default());
        assert_eq!(read("<n:lowMark action='warn'/><n:migration/>").unwrap(), Policy::default());
    }

    #[test]
    fn all_of_it_is_read_and_printed_back() {
        let text = "<n:chunk unit='MiB'>1</n:chunk><n:policy>\
            <n:lowMark unit='GiB' action='migrate'>2</n:lowMark><n:full action='pause'/>\
            <n:largestVolume unit='GiB'>64</n:largestVolume>\
            <n:overcommit unit='ratio'>1.5</n:overcommit>\
            <n:growth><n:least unit='MiB'>8</n:least><n:most unit='MiB'>256</n:most></n:growth>\
            <n:passdown enabled='yes'/>\
            <n:migration allowed='no'><n:bandwidth unit='MiB'>100</n:bandwidth>\
            <n:window from='22:00' to='06:30'/><n:daily>10</n:daily></n:migration>\
            </n:policy>";
        let pool = pool(text).unwrap();
        let expected = Policy {
            low_mark: LowMark::Size(Bytes::mib(2048)),
            at_low_mark: AtLowMark::Migrate,
            when_full: WhenFull::Pause,
            largest_volume: Some(Bytes::mib(65536)),
            overcommit: Some(Overcommit::Ratio("1.5".parse().unwrap())),
            growth: GrowthLimits { least: Some(Bytes::mib(8)), most: Some(Bytes::mib(256)) },
            passdown: true,
            movable: false,
            bandwidth: Some(Bytes::mib(100)),
            window: Some(Window { from: "22:00".parse().unwrap(), to: "06:30".parse().unwrap() }),
            daily: Some(10),
        };
        assert_eq!(pool.spec().policy, expected);
        assert_eq!(pool.spec().chunk, ChunkSize::new(Bytes::mib(1)).unwrap());
        let printed = pool.print(PoolType::Notify, &Standing::default());
        let notify = format!("xmlns:notify='{NOTIFY_NAMESPACE}'");
        let lines = [
            format!("  <notify:chunk {notify} unit='bytes'>1048576</notify:chunk>\n"),
            "    <notify:overcommit unit='ratio'>1.5</notify:overcommit>\n".to_owned(),
            "    <notify:passdown enabled='yes'/>\n".to_owned(),
            format!("  <notify:policy {notify}>\n    <notify:lowMark unit='bytes' "),
            "    <notify:migration allowed='no'>\n      <notify:bandwidth unit='bytes'>".to_owned(),
        ];
        assert!(lines.iter().all(|lines| printed.contains(lines)), "{printed}");
        let again = PoolDefinition::parse(&printed, true).unwrap();
        assert_eq!(again, pool);
        let logical = pool.print(PoolType::Logical, &Standing::default());
        assert!(!logical.contains("notify:"), "{logical}");
    }

    fn settings(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn settings_are_changed_one_by_one() {
        let before = Policy { movable: false, bandwidth: Some(Bytes(7)), ..Policy::default() };
        let change = |all: &[(&str, &str)]| changed_policy(Some(before), &settings(all));
        assert_eq!(change(&[]).unwrap(), before);
        let after = change(&[
            ("low-mark", "2 GiB"),
            ("when-full", "pause"),
            ("overcommit", "1.5"),
            ("growth-most", "64M"),
            ("bandwidth", "none"),
            ("window", "22:00-06:30"),
            ("daily", "3"),
        ]);
        let growth = GrowthLimits { least: None, most: Some(Bytes::mib(64)) };
        let expected = Policy {
            low_mark: LowMark::Size(Bytes::mib(2048)),
            when_full: WhenFull::Pause,
            overcommit: Some(Overcommit::Ratio("1.5".parse().unwrap())),
            growth,
            bandwidth: None,
            window: Some(Window { from: "22:00".parse().unwrap(), to: "06:30".parse().unwrap() }),
            daily: Some(3),
            ..before
        };
        assert_eq!(after.unwrap(), expected);
        let overcommit = |value| change(&[("overcommit", value)]).unwrap().overcommit;
        assert_eq!(overcommit("3TiB"), Some(Overcommit::Size(Bytes::mib(3 << 20))));
        assert_eq!(overcommit("2"), Some(Overcommit::Ratio("2".parse().unwrap())));
        assert_eq!(overcommit("2B"), Some(Overcommit::Size(Bytes(2))));
        assert_eq!(overcommit("none"), None);
        let never = change(&[("low-mark", "0")]).unwrap().low_mark;
        assert_eq!(never, LowMark::Size(Bytes::ZERO));
        assert_eq!(change(&[("window", " 22:00 - 06:30\n")]).unwrap().window, expected.window);
        assert_eq!(change(&[("window", " none ")]).unwrap().window, None);
        for (name, value, text) in [
            ("lowmark", "1", "no setting 'lowmark'"),
            ("low-mark", "101%", "malformed low-mark"),
            ("low-mark", "none", "malformed low-mark"),
            ("low-mark", "-1", "malformed low-mark"),
            ("low-mark", "", "malformed low-mark"),
            ("low-mark", "10", "10% of the pool, or a size such as 10GiB"),
            ("at-low-mark", "run", "only one of: nothing, warn, migrate"),
            ("largest-volume", "0", "'largest-volume' cannot be zero"),
            ("largest-volume", "1x", "unknown suffix 'x'"),
            ("largest-volume", "9999999TiB", "too large"),
            ("overcommit", "1e3", "unknown suffix 'e3'"),
            ("overcommit", "", "malformed overcommit"),
            ("overcommit", "20000", "malformed overcommit"),
            ("movable", "true", "only one of: yes, no"),
            ("window", "22:00", "malformed window"),
            ("window", "22:00-7", "no time of day 'to'"),
            ("window", "07:00-07:00", "when it ends"),
            ("daily", "0", "malformed daily"),
            ("daily", "3B", "malformed daily"),
            ("daily", "+3", "malformed daily"),
        ] {
            let error = change(&[("when-full", "pause"), (name, value)]).unwrap_err().to_string();
            assert!(error.contains(text), "{name}={value}: {error}");
        }
        let both = change(&[("growth-least", "2M"), ("growth-most", "1M")]).unwrap_err();
        assert!(both.to_string().contains("at least 2.00 MiB and at most 1.00 MiB"), "{both}");
        let twice = change(&[("movable", "no"), ("movable", "yes")]).unwrap_err();
        assert_eq!(twice.to_string(), "'movable' is set twice");
    }

    #[test]
    fn a_limit_of_capacities_may_be_a_size() {
        let limit = |inside| read(inside).unwrap().overcommit;
        let two = Some(Overcommit::Size(Bytes::mib(2048)));
        assert_eq!(limit("<n:overcommit unit='GiB'>2</n:overcommit>"), two);
        let bytes = Some(Overcommit::Size(Bytes(2)));
        assert_eq!(limit("<n:overcommit>2</n:overcommit>"), bytes);
    }

    #[test]
    fn what_cannot_be_says_so() {
        for (inside, text) in [
            ("<n:lowMark unit='%'>101</n:lowMark>", "malformed lowMark"),
            ("<n:lowMark>x</n:lowMark>", "malformed lowMark"),
            ("<n:lowMark action='run'>1</n:lowMark>", "only one of: nothing, warn, migrate"),
            ("<n:full action='x'/>", "cannot be 'x'"),
            ("<n:largestVolume>0</n:largestVolume>", "'largestVolume' cannot be zero"),
            ("<n:largestVolume>x</n:largestVolume>", "malformed largestVolume"),
            ("<n:overcommit unit='ratio'>0.00</n:overcommit>", "malformed overcommit"),
            ("<n:overcommit unit='ratio'/>", "malformed overcommit"),
            ("<n:overcommit unit='GiB'>1.5</n:overcommit>", "malformed overcommit"),
            ("<n:overcommit>0</n:overcommit>", "'overcommit' cannot be zero"),
            ("<n:largestVolume unit='x'>1</n:largestVolume>", "unknown suffix"),
            ("<n:growth><n:least>2</n:least><n:most>1</n:most></n:growth>", "at least 2 bytes"),
            ("<n:passdown enabled='on'/>", "only one of: yes, no"),
            ("<n:migration allowed='maybe'/>", "only one of: yes, no"),
            ("<n:migration><n:bandwidth/></n:migration>", "malformed bandwidth"),
            ("<n:migration><n:window from='22:00'/></n:migration>", "no time of day 'to'"),
            ("<n:migration><n:window from='9' to='10:00'/></n:migration>", "day 'from'"),
            ("<n:migration><n:window from='09:00' to='09:00'/></n:migration>", "when it ends"),
            ("<n:migration><n:daily>0</n:daily></n:migration>", "malformed daily"),
            ("<n:migration><n:daily>-1</n:daily></n:migration>", "malformed daily"),
            ("<n:migration><n:daily>+1</n:daily></n:migration>", "malformed daily"),
        ] {
            let error = read(inside).unwrap_err().to_string();
            assert!(error.contains(text), "{inside}: {error}");
        }
        let error = pool("<n:chunk>5</n:chunk>").unwrap_err().to_string();
        assert!(error.contains("a chunk of 5 bytes is not possible"), "{error}");
    }
}
