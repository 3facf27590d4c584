// SPDX-License-Identifier: LGPL-2.1-or-later
//! `<volume>` of a pool of ours.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use quick_xml::events::Event;
use uuid::Uuid;
use virtnotify_model::{Bytes, VolumeInfo, VolumeName, VolumeSpec};
use virtnotify_wire::service::VolumeXmlPeek;

use super::permissions::Permissions;
use super::print::Printer;
use super::tree::Element;
use super::{XmlError, document, malformed, scale, schema};

/// What a volume is called in libvirt's error texts.
const DOCUMENT: &str = "storage_volume_definition";

/// A volume as its XML describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeDefinition {
    /// Its name.
    pub name: VolumeName,
    /// Its size; absent only where it comes from another volume.
    pub capacity: Option<Bytes>,
    /// The space that it gets at once. Absent means none: libvirt's own migration leaves it out,
    /// and a volume that was thin has to stay thin.
    pub allocation: Option<Bytes>,
    /// The path of the volume or snapshot of which it is made.
    pub backing: Option<String>,
    /// Who may use its device.
    pub permissions: Permissions,
}

impl VolumeDefinition {
    /// Reads a volume to be made.
    ///
    /// # Errors When the text is no XML, no volume, or asks for something that a volume of ours
    /// cannot be.
    pub fn parse(text: &str, validate: bool) -> Result<Self, XmlError> {
        let root = document(text, DOCUMENT, "volume")?;
        if validate {
            schema::check(&root, &schema::VOLUME)?;
        }
        let name = root.text_at(&["name"]);
        let name = name.ok_or_else(|| malformed("missing volume name element"))?.parse()?;
        check_type(&root)?;
        check_format(&root)?;
        refuse(&root, &["target", "encryption"], "encryption: the guest can encrypt its disk")?;
        Ok(VolumeDefinition {
            name,
            backing: backing(&root)?,
            capacity: size(&root, "capacity")?,
            allocation: size(&root, "allocation")?,
            permissions: Permissions::parse(root.child("target"))?,
        })
    }

    /// The volume to be made, if its capacity is `capacity`.
    #[must_use]
    pub fn spec(&self, capacity: Bytes, uuid: Uuid) -> VolumeSpec {
        let allocation = self.allocation.unwrap_or(Bytes::ZERO);
        VolumeSpec { name: self.name.clone(), capacity, allocation, uuid, backing: None }
    }
}

/// Reads what a volume to be made would be called, and of what it would be made.
#[must_use]
pub fn peek_volume(text: &str) -> VolumeXmlPeek {
    let Ok(root) = document(text, DOCUMENT, "volume") else {
        return VolumeXmlPeek::default();
    };
    let text_at = |path: &[&str]| root.text_at(path).map(str::to_owned);
    VolumeXmlPeek { name: text_at(&["name"]), backing: text_at(&["backingStore", "path"]) }
}

/// The path of the backing store: as libvirt has it, one without a path is none.
fn backing(root: &Element) -> Result<Option<String>, XmlError> {
    let path = root.text_at(&["backingStore", "path"]);
    let format = root.at(&["backingStore", "format"]).and_then(|format| format.attribute("type"));
    match (path, format) {
        (Some(_), Some(other)) if other != "raw" => Err(XmlError::Unsupported(format!(
            "a volume of a pool of type 'notify' is made of a raw one, and cannot have a backing \
             store of the format '{other}'"
        ))),
        (path, _) => Ok(path.map(str::to_owned)),
    }
}

fn check_type(root: &Element) -> Result<(), XmlError> {
    // libvirt's pools decide on the type themselves, and only check that there is such a one.
    const KNOWN: [&str; 6] = ["file", "block", "dir", "network", "netdir", "ploop"];
    match root.attribute("type") {
        Some(kind) if !KNOWN.contains(&kind) => {
            Err(XmlError::Unsupported(format!("unknown volume type '{kind}'")))
        }
        _ => Ok(()),
    }
}

fn check_format(root: &Element) -> Result<(), XmlError> {
    let format = root.at(&["target", "format"]).and_then(|format| format.attribute("type"));
    match format {
        None | Some("raw") => Ok(()),
        Some(other) => Err(XmlError::Unsupported(format!(
            "a volume of a pool of type 'notify' is thin by itself and its format is 'raw', \
             not '{other}' (for virt-install: format=raw,type=block)"
        ))),
    }
}

fn refuse(root: &Element, path: &[&str], what: &str) -> Result<(), XmlError> {
    match root.at(path) {
        None => Ok(()),
        Some(_) => Err(XmlError::Unsupported(format!(
            "a volume of a pool of type 'notify' cannot have {what}"
        ))),
    }
}

fn size(root: &Element, name: &str) -> Result<Option<Bytes>, XmlError> {
    let Some(element) = root.child(name).filter(|element| !element.text.is_empty()) else {
        return Ok(None);
    };
    scale::size(&element.text, element.attribute("unit")).map(Some)
}

/// The capacity of a volume of another type, by its XML, if its bytes are the disk's.
///
/// # Errors
/// When they are not: only raw volumes can be copied as they are.
pub fn raw_capacity(text: &str, name: &str) -> Result<Bytes, XmlError> {
    let root = document(text, DOCUMENT, "volume")?;
    let format = root.at(&["target", "format"]).and_then(|format| format.attribute("type"));
    match format {
        // A pool of installation media calls raw disks `iso`, one of disks what it finds.
        None | Some("raw" | "iso" | "unknown" | "none") => {}
        Some(other) => {
            return Err(XmlError::Unsupported(format!(
                "the volume '{name}' has the format '{other}', and what goes into a pool of type \
                 'notify' is copied as it is: convert it first, with 'qemu-img convert -O raw'"
            )));
        }
    }
    size(&root, "capacity")?.ok_or_else(|| malformed("missing capacity element"))
}

/// XML for a new volume in a pool of libvirt's: the same text, with a capacity of at least `least` and
/// without a backing store, since the volume gets all that its source holds.
///
/// # Errors
/// When the text is no volume, or one whose format is not raw: what a volume of ours holds is
/// copied as it is.
pub fn with_capacity(text: &str, least: Bytes) -> Result<String, XmlError> {
    let root = document(text, DOCUMENT, "volume")?;
    check_format(&root)?;
    let capacity = size(&root, "capacity")?.unwrap_or(Bytes::ZERO).max(least);
    let alone = replace(text, "backingStore", "")?;
    replace(&alone, "capacity", &format!("<capacity unit='bytes'>{}</capacity>", capacity.0))
}

/// Takes the root's children of that name out of a text that is well-formed, and puts in
/// another one as the first; all else stays as it is.
fn replace(text: &str, name: &str, element: &str) -> Result<String, XmlError> {
    let failed = |error: quick_xml::Error| malformed(&error.to_string());
    // The reader does not count the mark in its positions.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = quick_xml::Reader::from_str(text);
    let (mut out, mut depth) = (String::with_capacity(text.len() + element.len()), 0);
    loop {
        let from = position(&reader);
        let event = reader.read_event().map_err(failed)?;
        match &event {
            Event::Eof => return Ok(out),
            Event::Start(tag) if depth == 1 && tag.name().as_ref() == name => {
                reader.read_to_end(tag.name()).map_err(failed)?;
                continue;
            }
            Event::Empty(tag) if depth == 1 && tag.name().as_ref() == name => continue,
            Event::Empty(tag) if depth == 0 => {
                // A root without children cannot be a volume, which has a name.
                return Err(malformed(&format!("'{}' is empty", tag.name().as_ref())));
            }
            _ => out.push_str(text.get(from..position(&reader)).unwrap_or_default()),
        }
        match event {
            Event::Start(_) => {
                depth += 1;
                if depth == 1 {
                    out.push_str(element);
                }
            }
            Event::End(_) => depth -= 1,
            _ => {}
        }
    }
}

fn position(reader: &quick_xml::Reader<&[u8]>) -> usize {
    usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX)
}

/// Prints a volume as libvirt prints one of a logical pool. `node` is its device, as far as
/// it can be looked at.
#[must_use]
pub fn print_volume(volume: &VolumeInfo, node: Option<&Metadata>) -> String {
    let mut out = Printer::default();
    out.block("volume type='block'", |out| {
        out.value("name", &volume.name);
        out.value("key", volume.uuid.hyphenated());
        out.value("capacity unit='bytes'", volume.capacity.0);
        out.value("allocation unit='bytes'", volume.allocation.0);
        let physical = Some(volume.allocation.0).filter(|size| *size > 0);
        out.optional("physical unit='bytes'", physical);
        out.block("target", |out| {
            out.value("path", volume.path.display());
            if let Some(node) = node {
                permissions(node).print(out);
                print_times(out, node);
            }
        });
        if let Some(backing) = &volume.backing {
            let path = volume.path.with_file_name(backing.as_str());
            out.block("backingStore", |out| out.value("path", path.display()));
        }
    });
    out.finish()
}

fn permissions(node: &Metadata) -> Permissions {
    Permissions {
        mode: Some(node.mode() & 0o777),
        owner: Some(node.uid()),
        group: Some(node.gid()),
        label: None,
    }
}

fn print_times(out: &mut Printer, node: &Metadata) {
    out.block("timestamps", |out| {
        out.value("atime", time(node.atime(), node.atime_nsec()));
        out.value("mtime", time(node.mtime(), node.mtime_nsec()));
        out.value("ctime", time(node.ctime(), node.ctime_nsec()));
    });
}

fn time(seconds: i64, nanoseconds: i64) -> String {
    match nanoseconds {
        0 => seconds.to_string(),
        _ => format!("{seconds}.{nanoseconds:09}"),
    }
}

#[cfg(test)]
#[path = "volume_tests.rs"]
mod tests;
