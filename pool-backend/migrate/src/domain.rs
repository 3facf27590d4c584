// SPDX-License-Identifier: LGPL-2.1-or-later
//! A VM as its libvirt XML shows it: only what a move has to know.

use std::collections::BTreeSet;

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};
use thiserror::Error;
use uuid::Uuid;
use virtnotify_model::Bytes;

use crate::surroundings::Surroundings;
use crate::wishes::Wishes;

/// How a VM is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// It runs.
    Running,
    /// It is paused by an I/O error, "no space" among them.
    IoError,
    /// It arrives from another host, and cannot be used yet.
    Arriving,
    /// It is paused for another reason.
    Paused,
    /// It is defined and not active.
    Off,
}

/// Where a disk's data is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskSource {
    /// `<disk type='volume'>`.
    Volume {
        /// The pool's name.
        pool: String,
        /// The volume's.
        volume: String,
    },
    /// A path on this host: `<disk type='block'>`, `'file'` or `'dir'`.
    Path(String),
    /// Reached over a network from any host.
    Network,
    /// No medium.
    Empty,
    /// Something else on this host, by libvirt's word for it.
    Other(String),
}

/// One disk of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its name in the VM's XML: `vda`.
    pub target: String,
    /// Where its data is.
    pub source: DiskSource,
    /// Whether the VM can only read it.
    pub read_only: bool,
    /// Whether it is marked as shared with other VMs.
    pub shared: bool,
    /// Whether QEMU encrypts it.
    pub luks: bool,
}

impl Disk {
    /// A disk that is written, by this VM alone, and as it is.
    pub(crate) fn new(target: &str, source: DiskSource) -> Self {
        Self { target: target.to_owned(), source, read_only: false, shared: false, luks: false }
    }
}

/// A VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Its UUID, the same on every host it comes to.
    pub uuid: Uuid,
    /// How it is doing.
    pub state: RunState,
    /// Whether it is off because its guest, a person or a crash ended it on this host, as far as libvirt
    /// knows: not because it went to another.
    pub ended: bool,
    /// Whether it stays defined when it is off.
    pub persistent: bool,
    /// Whether it starts with its host.
    pub autostart: bool,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Targets of the disks that reported "no space".
    pub no_space: BTreeSet<String>,
    /// How much memory its guest has now.
    pub memory: Bytes,
    /// What it finds on its host, and must find on another.
    pub surroundings: Surroundings,
    /// What its operator wants of it.
    pub wishes: Wishes,
}

/// XML that is no domain.
#[derive(Debug, Error)]
pub enum XmlError {
    /// Not well-formed.
    #[error("libvirt's XML of a VM cannot be read: {0}")]
    Syntax(#[from] quick_xml::Error),
    /// Attributes that are not well-formed.
    #[error("libvirt's XML of a VM has a broken attribute: {0}")]
    Attribute(#[from] quick_xml::events::attributes::AttrError),
    /// The document ends inside an element.
    #[error("libvirt's XML of a VM ends too early")]
    Truncated,
}

/// The disks in a domain's XML.
pub(crate) fn disks(xml: &str) -> Result<Vec<Disk>, XmlError> {
    let mut found: Vec<Disk> = Vec::new();
    each_element(xml, |path, tag| element(path, tag, &mut found))?;
    Ok(found)
}

/// Shows each element of a document, with the names on the way to it.
pub(crate) fn each_element(
    xml: &str,
    mut see: impl FnMut(&[&str], &BytesStart<'_>) -> Result<(), XmlError>,
) -> Result<(), XmlError> {
    let mut reader = Reader::from_str(xml);
    let mut path: Vec<String> = Vec::new();
    let mut shown = |path: &[String], tag: &BytesStart<'_>| {
        see(&path.iter().map(String::as_str).collect::<Vec<_>>(), tag)
    };
    loop {
        match reader.read_event()? {
            Event::Start(tag) => {
                path.push(name(&tag));
                shown(&path, &tag)?;
            }
            Event::Empty(tag) => {
                path.push(name(&tag));
                shown(&path, &tag)?;
                path.pop();
            }
            Event::End(_) => {
                path.pop();
            }
            Event::Eof if path.is_empty() => return Ok(()),
            Event::Eof => return Err(XmlError::Truncated),
            _ => {}
        }
    }
}

fn name(tag: &BytesStart<'_>) -> String {
    tag.name().as_ref().to_owned()
}

pub(crate) fn attribute(tag: &BytesStart<'_>, key: &str) -> Result<Option<String>, XmlError> {
    for attribute in tag.attributes() {
        let attribute = attribute?;
        if attribute.key.as_ref() == key {
            return Ok(Some(attribute.normalized_value(XmlVersion::Implicit1_0)?.into_owned()));
        }
    }
    Ok(None)
}

/// Takes in one element. Only direct children of a disk speak of the disk itself: backing
/// images and running block jobs have sources of their own further down.
fn element(path: &[&str], tag: &BytesStart<'_>, found: &mut Vec<Disk>) -> Result<(), XmlError> {
    match path {
        ["domain", "devices", "disk"] => {
            let kind = attribute(tag, "type")?.unwrap_or_else(|| "file".to_owned());
            let device = attribute(tag, "device")?;
            let read_only = device.as_deref() == Some("cdrom");
            found.push(Disk { read_only, ..Disk::new("", without_source(kind)) });
        }
        // In the source, or beside it, as it was defined.
        ["domain", "devices", "disk", "encryption"]
        | ["domain", "devices", "disk", "source", "encryption"] => {
            if let Some(disk) = found.last_mut() {
                disk.luks = true;
            }
        }
        ["domain", "devices", "disk", child] => {
            if let Some(disk) = found.last_mut() {
                disk_child(child, tag, disk)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// What a disk of this type is until its `<source>` is read.
fn without_source(kind: String) -> DiskSource {
    match kind.as_str() {
        "network" => DiskSource::Network,
        "file" | "block" | "dir" | "volume" => DiskSource::Empty,
        _ => DiskSource::Other(kind),
    }
}

fn disk_child(child: &str, tag: &BytesStart<'_>, disk: &mut Disk) -> Result<(), XmlError> {
    match child {
        "source" if disk.source == DiskSource::Empty => {
            if let Some(source) = source(tag)? {
                disk.source = source;
            }
        }
        "target" => disk.target = attribute(tag, "dev")?.unwrap_or_default(),
        "readonly" => disk.read_only = true,
        "shareable" => disk.shared = true,
        _ => {}
    }
    Ok(())
}

fn source(tag: &BytesStart<'_>) -> Result<Option<DiskSource>, XmlError> {
    if let (Some(pool), Some(volume)) = (attribute(tag, "pool")?, attribute(tag, "volume")?) {
        return Ok(Some(DiskSource::Volume { pool, volume }));
    }
    for key in ["dev", "file", "dir"] {
        if let Some(path) = attribute(tag, key)? {
            return Ok(Some(DiskSource::Path(path)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_disk_is_read() {
        let xml = r#"<domain type='kvm' id='3'><name>a&amp;b</name><devices>
          <emulator>/usr/bin/qemu</emulator>
          <disk type='volume' device='disk'><driver name='qemu' type='raw'/>
            <source pool='vms' volume='disk0' index='1'/><target dev='vda' bus='virtio'/></disk>
          <disk type='block' device='disk'><source dev='/dev/notify/vms/disk1'/>
            <target dev='vdb'/><shareable/></disk>
          <disk type='file' device='cdrom'><target dev='sda'/></disk>
          <disk type='network' device='disk'><source protocol='rbd' name='p/v'>
            <host name='h'/></source><target dev='vdc'/><readonly/></disk>
          <disk type='nvme' device='disk'><source type='pci'/><target dev='vdd'/></disk>
          <disk type='block' device='disk'><source dev='/dev/x'><encryption format='luks'/></source>
            <target dev='vde'/></disk>
          <disk type='block' device='disk'><encryption format='luks'/><source dev='/dev/x'/>
            <target dev='vdf'/></disk>
          <filesystem><source dir='/srv'/><target dir='srv'/></filesystem>
        </devices></domain>"#;
        let found = disks(xml).unwrap();
        let volume = DiskSource::Volume { pool: "vms".into(), volume: "disk0".into() };
        assert_eq!(found[0], Disk::new("vda", volume));
        let block = DiskSource::Path("/dev/notify/vms/disk1".into());
        assert_eq!(found[1], Disk { shared: true, ..Disk::new("vdb", block) });
        assert_eq!(found[2], Disk { read_only: true, ..Disk::new("sda", DiskSource::Empty) });
        assert_eq!(found[3], Disk { read_only: true, ..Disk::new("vdc", DiskSource::Network) });
        assert_eq!(found[4], Disk::new("vdd", DiskSource::Other("nvme".into())));
        for (encrypted, target) in found[5..].iter().zip(["vde", "vdf"]) {
            let source = DiskSource::Path("/dev/x".into());
            assert_eq!(*encrypted, Disk { luks: true, ..Disk::new(target, source) });
        }
        assert_eq!(found.len(), 7);
    }

    #[test]
    fn backing_images_and_jobs_are_not_the_disk() {
        let xml = r#"<domain><devices><disk type='file' device='disk'>
          <backingStore type='file'><source file='/base'/><backingStore/></backingStore>
          <source file='/top'/>
          <mirror type='block'><source dev='/other'/></mirror>
          <target dev='vda'/></disk></devices></domain>"#;
        assert_eq!(disks(xml).unwrap(), [Disk::new("vda", DiskSource::Path("/top".into()))]);
    }

    #[test]
    fn broken_xml_is_an_error() {
        for bad in ["<domain><devices>", "<domain></other>", "<domain a=></domain>", "<a"] {
            let refused = disks(bad).is_err() || disks(bad).unwrap().is_empty();
            assert!(refused, "{bad}");
        }
        assert!(disks("<domain><devices>").is_err());
    }
}
