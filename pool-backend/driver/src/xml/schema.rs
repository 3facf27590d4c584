// SPDX-License-Identifier: LGPL-2.1-or-later
//! Validation for clients that ask for it (`virsh pool-define --validate`).
//!
//! The rules say what `virtnotify-pool.rng`, `virtnotify-policy.rng` and `virtnotify-volume.rng`
//! in `xml-schemas/` say; a test holds one against the other. They are here a second time because the daemon would
//! otherwise need a whole RELAX NG engine for a dozen elements.

use virtnotify_model::{TimeOfDay, VolumeName};

use super::XmlError;
use super::tree::{Element, Namespace};

/// What a text or an attribute may be.
#[derive(Debug, Clone, Copy)]
enum Text {
    Nothing,
    Anything,
    Number,
    OptionalNumber,
    /// A number of things, at least one.
    Positive,
    /// A time of day: `22:00`.
    Time,
    Octal,
    /// A user or group; -1 is libvirt's old way to say "as it is".
    Id,
    Unit,
    /// The unit of the low mark, which may be a part of the whole.
    MarkUnit,
    /// The unit of the limit of capacities, which may be a ratio, and its number.
    LimitUnit,
    Limit,
    Uuid,
    Path,
    /// The target path of a pool.
    Target,
    /// A name that [`virtnotify_model`] allows, up to that many characters.
    Name(usize),
    /// The name of a volume or of a snapshot.
    Volume,
    OneOf(&'static [&'static str]),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Times {
    Optional,
    Once,
    Any,
}

struct Attribute {
    name: &'static str,
    required: bool,
    text: Text,
}

/// What an element may hold, its children in any order.
pub(super) struct Rule {
    name: &'static str,
    namespace: Namespace,
    times: Times,
    attributes: &'static [Attribute],
    text: Text,
    children: &'static [Rule],
}

impl Rule {
    const fn leaf(name: &'static str, text: Text) -> Self {
        Rule {
            name,
            namespace: Namespace::None,
            times: Times::Optional,
            attributes: &[],
            text,
            children: &[],
        }
    }

    const fn size(name: &'static str) -> Self {
        Rule { attributes: UNIT, ..Rule::leaf(name, Text::Number) }
    }

    const fn parent(name: &'static str, children: &'static [Rule]) -> Self {
        Rule { children, ..Rule::leaf(name, Text::Nothing) }
    }

    const fn with(self, attributes: &'static [Attribute]) -> Self {
        Rule { attributes, ..self }
    }

    const fn times(self, times: Times) -> Self {
        Rule { times, ..self }
    }

    const fn notify(self) -> Self {
        Rule { namespace: Namespace::Notify, ..self }
    }
}

const fn optional(name: &'static str, choices: &'static [&'static str]) -> Attribute {
    Attribute { name, required: false, text: Text::OneOf(choices) }
}

const UNIT: &[Attribute] = &[Attribute { name: "unit", required: false, text: Text::Unit }];

const PERMISSIONS: Rule = Rule::parent(
    "permissions",
    &[
        Rule::leaf("mode", Text::Octal),
        Rule::leaf("owner", Text::Id),
        Rule::leaf("group", Text::Id),
        Rule::leaf("label", Text::Anything),
    ],
);

/// What the pool does by itself.
const POLICY: Rule = Rule::parent(
    "policy",
    &[
        Rule::leaf("lowMark", Text::OptionalNumber)
            .with(&[
                Attribute { name: "unit", required: false, text: Text::MarkUnit },
                optional("action", &["nothing", "warn", "migrate"]),
            ])
            .notify(),
        Rule::leaf("full", Text::Nothing)
            .with(&[optional("action", &["migrate", "pause", "error"])])
            .notify(),
        Rule::size("largestVolume").notify(),
        Rule::leaf("overcommit", Text::Limit)
            .with(&[Attribute { name: "unit", required: false, text: Text::LimitUnit }])
            .notify(),
        Rule::parent("growth", &[Rule::size("least").notify(), Rule::size("most").notify()])
            .notify(),
        Rule::leaf("passdown", Text::Nothing).with(&[optional("enabled", &["yes", "no"])]).notify(),
        Rule::parent(
            "migration",
            &[
                Rule::size("bandwidth").notify(),
                Rule::leaf("window", Text::Nothing)
                    .with(&[
                        Attribute { name: "from", required: true, text: Text::Time },
                        Attribute { name: "to", required: true, text: Text::Time },
                    ])
                    .notify(),
                Rule::leaf("daily", Text::Positive).notify(),
            ],
        )
        .with(&[optional("allowed", &["yes", "no"])])
        .notify(),
    ],
)
.notify();

/// A pool of type `notify`.
pub(super) const POOL: Rule = Rule::parent(
    "pool",
    &[
        Rule::leaf("name", Text::Name(50)),
        Rule::leaf("uuid", Text::Uuid),
        Rule::size("capacity"),
        Rule::size("allocation"),
        Rule::size("available"),
        Rule::parent(
            "source",
            &[
                Rule::leaf("device", Text::Nothing)
                    .with(&[Attribute { name: "path", required: true, text: Text::Path }])
                    .times(Times::Any),
                Rule::leaf("name", Text::Name(127)),
                Rule::leaf("format", Text::Nothing).with(&[Attribute {
                    name: "type",
                    required: true,
                    text: Text::OneOf(&["lvm2"]),
                }]),
            ],
        ),
        Rule::parent("target", &[Rule::leaf("path", Text::Target), PERMISSIONS]),
        Rule::size("chunk").notify(),
        Rule::leaf("drained", Text::Nothing).notify(),
        POLICY,
    ],
)
.with(&[Attribute { name: "type", required: true, text: Text::OneOf(&["notify"]) }]);

/// The format of volumes.
const RAW: Rule = Rule::leaf("format", Text::Nothing).with(&[Attribute {
    name: "type",
    required: true,
    text: Text::OneOf(&["raw"]),
}]);

/// A volume of such a pool.
pub(super) const VOLUME: Rule = Rule::parent(
    "volume",
    &[
        Rule::leaf("name", Text::Volume).times(Times::Once),
        Rule::leaf("key", Text::Anything),
        Rule::size("capacity"),
        Rule::size("allocation"),
        Rule::size("physical"),
        Rule::parent(
            "target",
            &[
                Rule::leaf("path", Text::Path),
                RAW,
                PERMISSIONS,
                Rule::parent(
                    "timestamps",
                    &[
                        Rule::leaf("atime", Text::Anything),
                        Rule::leaf("mtime", Text::Anything),
                        Rule::leaf("ctime", Text::Anything),
                        Rule::leaf("btime", Text::Anything),
                    ],
                ),
            ],
        ),
        Rule::parent("backingStore", &[Rule::leaf("path", Text::Path).times(Times::Once), RAW]),
    ],
)
.with(&[Attribute { name: "type", required: false, text: Text::OneOf(&["file", "block"]) }]);

/// Checks a document against the rule of its root.
pub(super) fn check(root: &Element, rule: &Rule) -> Result<(), XmlError> {
    check_element(root, rule).map_err(|what| {
        XmlError::Schema(format!(
            "Unable to validate doc against the schema of '{}': {what}",
            rule.name
        ))
    })
}

fn check_element(element: &Element, rule: &Rule) -> Result<(), String> {
    let name = rule.name;
    check_attributes(element, rule)?;
    if !holds(rule.text, &element.text) {
        return Err(format!("the content of the element '{name}' is not allowed"));
    }
    for child in &element.children {
        let Some(rule) = rule.children.iter().find(|rule| child.is(rule.namespace, rule.name))
        else {
            let child: String = child.name.chars().take(64).collect();
            return Err(format!("the element '{name}' cannot hold an element '{child}'"));
        };
        check_element(child, rule)?;
    }
    rule.children.iter().try_for_each(|child| check_times(element, child))
}

fn check_times(element: &Element, child: &Rule) -> Result<(), String> {
    let count = element.children.iter().filter(|e| e.is(child.namespace, child.name)).count();
    let name = child.name;
    match child.times {
        Times::Once if count == 0 => Err(format!("the element '{name}' is missing")),
        Times::Once | Times::Optional if count > 1 => {
            Err(format!("the element '{name}' is there {count} times"))
        }
        _ => Ok(()),
    }
}

fn check_attributes(element: &Element, rule: &Rule) -> Result<(), String> {
    let name = rule.name;
    for (key, value) in &element.attributes {
        let known = rule.attributes.iter().find(|attribute| attribute.name == key);
        if !known.is_some_and(|attribute| holds(attribute.text, value)) {
            let key: String = key.chars().take(64).collect();
            return Err(format!("the attribute '{key}' of the element '{name}' is not allowed"));
        }
    }
    let required = rule.attributes.iter().filter(|attribute| attribute.required);
    for attribute in required {
        if !element.attributes.iter().any(|(key, _)| key == attribute.name) {
            return Err(format!("the element '{name}' needs an attribute '{}'", attribute.name));
        }
    }
    Ok(())
}

fn holds(rule: Text, text: &str) -> bool {
    match rule {
        Text::Nothing => text.trim_matches([' ', '\t', '\n', '\r']).is_empty(),
        Text::Anything => true,
        Text::Number => is_number(text) && text.parse::<u64>().is_ok(),
        Text::OptionalNumber => text.is_empty() || holds(Text::Number, text),
        Text::Positive => is_number(text) && text.parse::<u32>().is_ok_and(|number| number > 0),
        Text::Time => text.parse::<TimeOfDay>().is_ok(),
        Text::Octal => is_octal(text) && text.parse::<u32>().is_ok(),
        Text::Id => text == "-1" || is_number(text) && text.parse::<u32>().is_ok(),
        Text::Unit => is_unit(text),
        Text::MarkUnit => text == "%" || is_unit(text),
        Text::LimitUnit => text == "ratio" || is_unit(text),
        Text::Limit => holds(Text::Number, text) || is_decimal(text),
        Text::Uuid => is_uuid(text),
        Text::Path => text.len() > 1 && text.starts_with('/') && !text.contains('\n'),
        Text::Target => {
            let name = text.strip_prefix("/dev/notify/");
            name.is_some_and(|name| is_name(name, 50))
        }
        Text::Name(limit) => is_name(text, limit),
        Text::Volume => text.parse::<VolumeName>().is_ok(),
        Text::OneOf(choices) => choices.contains(&text),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit())
}

/// With a fraction of one or two places.
fn is_decimal(text: &str) -> bool {
    let fraction = |part: &str| is_number(part) && part.len() <= 2;
    text.split_once('.').is_some_and(|(whole, part)| is_number(whole) && fraction(part))
}

fn is_octal(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|digit| (b'0'..=b'7').contains(&digit))
}

fn is_unit(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let scaled = |rest: &str| matches!(rest, "" | "b" | "ib");
    matches!(lower.as_str(), "b" | "byte" | "bytes")
        || lower.strip_prefix(['k', 'm', 'g', 't', 'p', 'e']).is_some_and(scaled)
}

fn is_uuid(text: &str) -> bool {
    let hex = |part: &str, len: usize| {
        part.len() == len && part.bytes().all(|digit| digit.is_ascii_hexdigit())
    };
    let parts: Vec<&str> = text.split('-').collect();
    match parts.as_slice() {
        [whole] => hex(whole, 32),
        [a, b, c, d, e] => hex(a, 8) && hex(b, 4) && hex(c, 4) && hex(d, 4) && hex(e, 12),
        _ => false,
    }
}

fn is_name(text: &str, limit: usize) -> bool {
    let letters = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+_.-".contains(&byte));
    let dots = text == "." || text == "..";
    letters && !dots && !text.starts_with('-') && (1..=limit).contains(&text.len())
}
