// SPDX-License-Identifier: LGPL-2.1-or-later
//! `<notify:policy>`, what a pool does by itself, and `<notify:chunk>`, the size of its chunks.
//!
//! Both are in a namespace of their own, as what libvirt's other pool types have beyond the common
//! XML. Elements that are left out have their defaults.

use virtnotify_model::{
    AtLowMark, Bytes, ChunkSize, GrowthLimits, LowMark, Overcommit, Policy, TimeOfDay, UnitError,
    WhenFull, Window,
};

use super::print::Printer;
use super::tree::{Element, NOTIFY_NAMESPACE, Namespace};
use super::{XmlError, scale};

const AT_LOW_MARK: [(&str, AtLowMark); 3] =
    [("nothing", AtLowMark::Nothing), ("warn", AtLowMark::Warn), ("migrate", AtLowMark::Migrate)];
const WHEN_FULL: [(&str, WhenFull); 3] =
    [("migrate", WhenFull::Migrate), ("pause", WhenFull::Pause), ("error", WhenFull::Error)];
const YES_NO: [(&str, bool); 2] = [("yes", true), ("no", false)];

/// The policy in a pool's XML, if there is one.
///
/// # Errors When a value is invalid, or two of them exclude each other.
pub(super) fn policy(pool: &Element) -> Result<Option<Policy>, XmlError> {
    let Some(element) = ours(pool, "policy") else { return Ok(None) };
    let default = Policy::default();
    let low = ours(element, "lowMark");
    let migration = ours(element, "migration");
    Ok(Some(Policy {
        low_mark: low.map_or(Ok(default.low_mark), low_mark)?,
        at_low_mark: choice(low, "action", &AT_LOW_MARK)?.unwrap_or(default.at_low_mark),
        when_full: choice(ours(element, "full"), "action", &WHEN_FULL)?
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
    }))
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

/// A size; zero would be no limit, and is refused.
fn size(parent: Option<&Element>, name: &str) -> Result<Option<Bytes>, XmlError> {
    let Some(element) = parent.and_then(|parent| ours(parent, name)) else { return Ok(None) };
    match scale::size(&element.text, element.attribute("unit")) {
        Ok(Bytes::ZERO) => {
            Err(XmlError::Malformed(format!("the policy's '{name}' cannot be zero")))
        }
        Err(XmlError::Malformed(_)) => {
            Err(XmlError::Malformed(format!("malformed {name} element")))
        }
        size => size.map(Some),
    }
}

fn low_mark(element: &Element) -> Result<LowMark, XmlError> {
    let malformed = || XmlError::Malformed("malformed lowMark element".to_owned());
    if element.text.is_empty() {
        return Ok(LowMark::default());
    }
    if element.attribute("unit") == Some("%") {
        let percent = element.text.parse().ok().filter(|percent| *percent <= 100);
        return percent.map(LowMark::Percent).ok_or_else(malformed);
    }
    match scale::size(&element.text, element.attribute("unit")) {
        Err(XmlError::Malformed(_)) => Err(malformed()),
        size => size.map(LowMark::Size),
    }
}

fn overcommit(policy: &Element) -> Result<Option<Overcommit>, XmlError> {
    let ratio = |element: &&Element| element.attribute("unit") == Some("ratio");
    match ours(policy, "overcommit").filter(ratio) {
        Some(element) => match element.text.parse() {
            Ok(ratio) => Ok(Some(Overcommit::Ratio(ratio))),
            Err(()) => Err(XmlError::Malformed("malformed overcommit element".to_owned())),
        },
        None => Ok(size(Some(policy), "overcommit")?.map(Overcommit::Size)),
    }
}

fn growth(element: Option<&Element>) -> Result<GrowthLimits, XmlError> {
    let limits = GrowthLimits { least: size(element, "least")?, most: size(element, "most")? };
    match (limits.least, limits.most) {
        (Some(least), Some(most)) if least > most => Err(XmlError::Malformed(format!(
            "a volume cannot grow by at least {least} and at most {most}"
        ))),
        _ => Ok(limits),
    }
}

fn window(element: &Element) -> Result<Window, XmlError> {
    let time = |key: &str| {
        let time = element.attribute(key).and_then(|text| text.parse::<TimeOfDay>().ok());
        time.ok_or_else(|| {
            XmlError::Malformed(format!("the policy's window has no time of day '{key}', as 22:00"))
        })
    };
    let window = Window { from: time("from")?, to: time("to")? };
    match window.from == window.to {
        true => Err(XmlError::Malformed("the policy's window begins when it ends".to_owned())),
        false => Ok(window),
    }
}

/// None at all is what `allowed` and the low mark's action are for.
fn daily(element: &Element) -> Result<u32, XmlError> {
    let number = element.text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| XmlError::Malformed("malformed daily element".to_owned()))
}

fn choice<T: Copy>(
    element: Option<&Element>,
    attribute: &str,
    choices: &[(&str, T)],
) -> Result<Option<T>, XmlError> {
    let Some(value) = element.and_then(|element| element.attribute(attribute)) else {
        return Ok(None);
    };
    match choices.iter().find(|(name, _)| *name == value) {
        Some((_, choice)) => Ok(Some(*choice)),
        None => {
            let value: String = value.chars().take(64).collect();
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            Err(XmlError::Malformed(format!(
                "the policy's attribute '{attribute}' cannot be '{value}', only one of: {}",
                names.join(", ")
            )))
        }
    }
}

fn name<T: Copy + PartialEq>(choices: &[(&'static str, T)], value: T) -> &'static str {
    choices.iter().find(|(_, choice)| *choice == value).map_or("", |(name, _)| *name)
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
    let action = name(&AT_LOW_MARK, policy.at_low_mark);
    out.value(&format!("notify:lowMark unit='{unit}' action='{action}'"), mark);
    out.empty("notify:full", "action", name(&WHEN_FULL, policy.when_full));
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
        out.empty("notify:passdown", "enabled", name(&YES_NO, true));
    }
    let allowed = name(&YES_NO, policy.movable);
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
        ] {
            let error = read(inside).unwrap_err().to_string();
            assert!(error.contains(text), "{inside}: {error}");
        }
        let error = pool("<n:chunk>5</n:chunk>").unwrap_err().to_string();
        assert!(error.contains("a chunk of 5 bytes is not possible"), "{error}");
    }
}
