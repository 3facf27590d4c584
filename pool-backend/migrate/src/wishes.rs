// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a VM's `<metadata>` says about moving it.
//!
//! ```xml
//! <metadata>
//!   <notify:move xmlns:notify='https://virtnotify.org/xmlns/domain/1.0' allowed='yes' priority='80'>
//!     <notify:peer name='host2'/>
//!     <notify:apart group='db'/>
//!   </notify:move>
//! </metadata>
//! ```
//!
//! This element is its operator's; we write it only when asked to pin the VM. Where the VM came from is in an
//! element of another namespace, which only we write: libvirt replaces elements by namespace.
//! An element that is not understood keeps the VM where it is: a typing error must not send a
//! VM somewhere.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::domain_xml::{Element, XmlError};
use crate::timing::seconds_since_1970;

/// The namespace of `<move>`.
pub(crate) const WISHES: &str = "https://virtnotify.org/xmlns/domain/1.0";
/// The namespace of `<moved>`.
pub(crate) const ORIGIN: &str = "https://virtnotify.org/xmlns/origin/1.0";

/// Why a VM's metadata keep it where it is: the end of a sentence that names it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Kept {
    /// Its operator wants it here.
    #[error("its <metadata> says that it is not to be moved")]
    Pinned,
    /// Its operator wants something that is not known here.
    #[error("what its <metadata> says about moves is not understood ({0}), so it stays")]
    NotUnderstood(String),
}

/// What an operator wants of a VM, and what we wrote down about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Why it may not be moved.
    pub stays: Option<Kept>,
    /// The peers that it may go to, by name; all when empty.
    pub only: BTreeSet<String>,
    /// How important it is beside others.
    pub priority: Priority,
    /// Groups whose VMs keep apart: each on a host of its own.
    pub apart: BTreeSet<String>,
    /// Its last moves, the newest last.
    pub origins: Vec<Origin>,
}

/// How important a VM is beside others, from 0 to 100: of those that wait for space it moves sooner, of those that
/// run it leaves later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(u8);

impl Priority {
    fn read(text: &str) -> Option<Self> {
        text.parse().ok().filter(|priority| *priority <= 100).map(Self)
    }
}

#[cfg(test)]
impl Priority {
    /// The priority of that number.
    pub(crate) fn of(number: u8) -> Self {
        Self(number)
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self(50)
    }
}

/// Where a VM came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The name that host has for itself.
    pub host: String,
    /// When it left, in seconds since 1970.
    pub at: u64,
}

impl Origin {
    /// A move from `host` that begins now.
    pub(crate) fn now(host: &str) -> Self {
        Self { host: host.to_owned(), at: seconds_since_1970() }
    }

    /// The element for the VM's metadata that has all of them.
    pub(crate) fn xml(all: &[Self]) -> String {
        let one = |of: &Self| {
            format!("<host name='{}' at='{}'/>", quick_xml::escape::escape(&of.host), of.at)
        };
        format!("<moved>{}</moved>", all.iter().map(one).collect::<String>())
    }

    /// Whether that is less than `time` ago. A clock that was set back makes it old, so that
    /// it cannot keep a VM from a host for ever.
    pub(crate) fn is_within(&self, time: Duration) -> bool {
        let now = seconds_since_1970();
        self.at <= now && now - self.at < time.as_secs()
    }
}

/// Whose elements are being read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Inside {
    #[default]
    Others,
    Wishes,
    Origins,
}

/// Finds them among the elements of a domain's XML.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    wishes: Wishes,
    /// In whose elements it is: the operator's, or ours.
    inside: Inside,
}

impl Reader {
    /// What was said.
    pub(crate) fn found(self) -> Wishes {
        self.wishes
    }

    /// Takes in one element.
    pub(crate) fn see(&mut self, element: &Element<'_>) -> Result<(), XmlError> {
        match element.path {
            ["domain", "metadata", _] => {
                self.inside = match element.namespace {
                    Some(WISHES) => Inside::Wishes,
                    Some(ORIGIN) => Inside::Origins,
                    _ => Inside::Others,
                };
                if self.inside == Inside::Wishes {
                    self.wishes.root(element)?;
                }
            }
            ["domain", "metadata", _, _, ..] if self.inside == Inside::Wishes => {
                self.wishes.child(element.path.len() - 3, element)?;
            }
            ["domain", "metadata", _, _] if self.inside == Inside::Origins => {
                self.wishes.origins.extend(origin(element)?);
            }
            _ => {}
        }
        Ok(())
    }
}

fn origin(element: &Element<'_>) -> Result<Option<Origin>, XmlError> {
    let at = element.attribute("at")?.and_then(|at| at.parse().ok());
    Ok(element.attribute("name")?.zip(at).map(|(host, at)| Origin { host, at }))
}

impl Wishes {
    fn root(&mut self, element: &Element<'_>) -> Result<(), XmlError> {
        let name = element.local_name();
        if name != "move" {
            self.unknown(&format!("<{name}>"));
        }
        for (key, value) in element.attributes()? {
            match (key.as_str(), value.as_str()) {
                ("allowed", "yes") => {}
                ("allowed", "no") => self.stays(Kept::Pinned),
                ("priority", number) if Priority::read(number).is_some() => {
                    self.priority = Priority::read(number).unwrap_or_default();
                }
                _ => self.unknown(&format!("{key}='{value}'")),
            }
        }
        Ok(())
    }

    fn child(&mut self, depth: usize, element: &Element<'_>) -> Result<(), XmlError> {
        let (name, all) = (element.local_name(), element.attributes()?);
        match (depth, name, all.as_slice()) {
            (1, "peer", [(key, peer)]) if key == "name" => {
                self.only.insert(peer.clone());
            }
            (1, "apart", [(key, group)]) if key == "group" && !group.is_empty() => {
                self.apart.insert(group.clone());
            }
            _ => self.unknown(&format!("<{name}>")),
        }
        Ok(())
    }

    /// The element that says whether the VM is to stay, and all else as it was.
    ///
    /// # Errors
    /// When what is there is not understood: then only its author knows what is meant.
    pub(crate) fn pinned(&self, pinned: bool) -> Result<String, Kept> {
        if let Some(odd @ Kept::NotUnderstood(_)) = &self.stays {
            return Err(odd.clone());
        }
        let peer = |name: &String| format!("<peer name='{}'/>", quick_xml::escape::escape(name));
        let apart = |of: &String| format!("<apart group='{}'/>", quick_xml::escape::escape(of));
        let peers: String = self.only.iter().map(peer).collect();
        let groups: String = self.apart.iter().map(apart).collect();
        let allowed = if pinned { "no" } else { "yes" };
        let priority = match self.priority {
            other if other == Priority::default() => String::new(),
            Priority(number) => format!(" priority='{number}'"),
        };
        Ok(format!("<move allowed='{allowed}'{priority}>{peers}{groups}</move>"))
    }

    fn unknown(&mut self, what: &str) {
        let what: String = what.chars().take(64).collect();
        self.stays(Kept::NotUnderstood(what));
    }

    fn stays(&mut self, why: Kept) {
        self.stays.get_or_insert(why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain_xml;

    fn read(metadata: &str) -> Wishes {
        let xml = format!(
            "<domain><name>a</name><metadata><x:os xmlns:x='urn:x'><x:move allowed='no'/></x:os>\
             {metadata}</metadata><devices><disk type='file'/></devices></domain>"
        );
        domain_xml::read(&xml).unwrap().wishes
    }

    #[test]
    fn without_a_word_it_may_go_anywhere() {
        assert_eq!(read(""), Wishes::default());
        assert_eq!(domain_xml::read("<domain/>").unwrap().wishes, Wishes::default());
    }

    #[test]
    fn it_may_stay_or_have_its_destinations() {
        let ns = format!("xmlns:notify='{WISHES}'");
        let no = read(&format!("<notify:move {ns} allowed='no'/>"));
        assert_eq!(no.stays, Some(Kept::Pinned));
        let pinned = read(&format!(
            "<notify:move {ns} allowed='yes'><notify:peer name='host2'/>\
             <notify:peer name='host3'/></notify:move>"
        ));
        assert_eq!((pinned.stays, pinned.only.len()), (None, 2));
        assert!(pinned.only.contains("host3"));
    }

    #[test]
    fn its_priority_and_those_from_whom_it_keeps_apart() {
        let ns = format!("xmlns:notify='{WISHES}'");
        let read = read(&format!(
            "<notify:move {ns} priority='80'><notify:apart group='db'/><notify:apart group='a'/>\
             </notify:move>"
        ));
        assert_eq!((read.stays, read.priority), (None, Priority(80)));
        assert_eq!(read.apart, BTreeSet::from(["a".to_owned(), "db".to_owned()]));
        assert!(Priority::default() > Priority(49) && Priority::default() < Priority(51));
    }

    #[test]
    fn what_is_not_understood_keeps_it_here() {
        let ns = format!("xmlns:n='{WISHES}'");
        for bad in [
            format!("<n:move {ns} allowed='maybe'/>"),
            format!("<n:move {ns} alowed='yes'/>"),
            format!("<n:moves {ns}/>"),
            format!("<n:move {ns}><n:destination name='a'/></n:move>"),
            format!("<n:move {ns}><n:peer host='a'/></n:move>"),
            format!("<n:move {ns} priority='101'/>"),
            format!("<n:move {ns} priority='-1'/>"),
            format!("<n:move {ns}><n:apart group=''/></n:move>"),
            format!("<n:move {ns}><n:apart/></n:move>"),
            format!("<n:move {ns}><n:peer name='a'><n:apart group='a'/></n:peer></n:move>"),
        ] {
            assert!(matches!(read(&bad).stays, Some(Kept::NotUnderstood(_))), "{bad}");
        }
    }

    #[test]
    fn a_pin_keeps_the_peers_and_is_read_back() {
        let ns = format!("xmlns:notify='{WISHES}'");
        let read_back = |xml: &str| {
            let xml = xml.replace("<move", &format!("<notify:move {ns}"));
            read(
                &xml.replace("</move", "</notify:move")
                    .replace("<peer", "<notify:peer")
                    .replace("<apart", "<notify:apart"),
            )
        };
        let free = read(&format!(
            "<notify:move {ns} priority='7'><notify:peer name='a&amp;b'/>\
             <notify:apart group='d&apos;b'/></notify:move>"
        ));
        let pinned = read_back(&free.pinned(true).unwrap());
        assert_eq!(pinned.stays, Some(Kept::Pinned));
        assert_eq!(pinned.only, free.only);
        assert_eq!(read_back(&pinned.pinned(false).unwrap()), free);
        assert_eq!(read_back(&Wishes::default().pinned(false).unwrap()), Wishes::default());
        let odd = read(&format!("<notify:move {ns} allowed='maybe'/>"));
        assert!(matches!(odd.pinned(false), Err(Kept::NotUnderstood(_))));
    }

    #[test]
    fn where_it_came_from_is_written_and_read() {
        let origin = Origin::now("a'b&c");
        let origins = [Origin { host: "host1".into(), at: 7 }, origin.clone()];
        let xml = Origin::xml(&origins).replace("<moved", &format!("<o:moved xmlns:o='{ORIGIN}'"));
        assert_eq!(read(&xml.replace("</moved", "</o:moved")).origins, origins);
        assert!(origin.is_within(Duration::from_secs(60)));
        assert!(!Origin { at: 0, ..origin.clone() }.is_within(Duration::from_secs(60)));
        assert!(!Origin { at: u64::MAX, ..origin }.is_within(Duration::from_secs(60)));
    }
}
