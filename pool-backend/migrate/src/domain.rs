// SPDX-License-Identifier: LGPL-2.1-or-later
//! A VM as its libvirt XML shows it: only what a move has to know.

use std::collections::BTreeSet;
use std::fmt;

use uuid::Uuid;
use virtnotify_model::Bytes;

use crate::domain_xml::{Element, XmlError};
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
    /// It ran, and stands still for another reason: its guest sleeps or crashed, a watchdog stopped it, it is saved.
    Halted,
    /// A person paused it, or it arrived and never ran.
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
    /// Whether a VM that arrives goes without it where it is not there (`startupPolicy`).
    pub optional: bool,
}

/// What a VM reads and a move does not copy: a volume that its XML names by its pool. Of a file no libvirt says that a host
/// lacks it: it knows the files of its pools as they were when it looked at them last.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Image {
    /// The pool's name.
    pub pool: String,
    /// The volume's.
    pub volume: String,
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the volume '{}' of the pool '{}'", self.volume, self.pool)
    }
}

impl Disk {
    /// A disk that is written, by this VM alone, and as it is.
    pub(crate) fn new(target: &str, source: DiskSource) -> Self {
        Self {
            target: target.to_owned(),
            source,
            read_only: false,
            shared: false,
            luks: false,
            optional: false,
        }
    }

    /// What it is read from, unless a move copies it or the VM can go without it.
    fn image(&self) -> Option<Image> {
        match &self.source {
            DiskSource::Volume { pool, volume } if self.read_only || self.shared => {
                let image = Image { pool: pool.clone(), volume: volume.clone() };
                (!self.optional).then_some(image)
            }
            _ => None,
        }
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
    /// Whether it is off and libvirt does not know why: libvirt was started later, or a start of the VM failed since.
    pub forgotten: bool,
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

impl Domain {
    /// What its disks are read from and a move does not copy: the other host must have it.
    pub(crate) fn images(&self) -> BTreeSet<Image> {
        self.disks.iter().filter_map(Disk::image).collect()
    }
}

/// Finds the disks among the elements of a domain's XML.
#[derive(Debug, Default)]
pub(crate) struct Disks(Vec<Disk>);

impl Disks {
    /// All that were seen.
    pub(crate) fn found(self) -> Vec<Disk> {
        self.0
    }

    /// Takes in one element. Only direct children of a disk speak of the disk itself: backing
    /// images and running block jobs have sources of their own further down.
    pub(crate) fn see(&mut self, element: &Element<'_>) -> Result<(), XmlError> {
        match element.path {
            ["domain", "devices", "disk"] => {
                let kind = element.attribute("type")?.unwrap_or_else(|| "file".to_owned());
                let device = element.attribute("device")?;
                let read_only = device.as_deref() == Some("cdrom");
                self.0.push(Disk { read_only, ..Disk::new("", without_source(kind)) });
            }
            // In the source, or beside it, as it was defined.
            ["domain", "devices", "disk", "encryption"]
            | ["domain", "devices", "disk", "source", "encryption"] => {
                if let Some(disk) = self.0.last_mut() {
                    disk.luks = true;
                }
            }
            ["domain", "devices", "disk", child] => {
                if let Some(disk) = self.0.last_mut() {
                    disk_child(child, element, disk)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// What a disk of this type is until its `<source>` is read.
fn without_source(kind: String) -> DiskSource {
    match kind.as_str() {
        "network" => DiskSource::Network,
        "file" | "block" | "dir" | "volume" => DiskSource::Empty,
        _ => DiskSource::Other(kind),
    }
}

fn disk_child(child: &str, element: &Element<'_>, disk: &mut Disk) -> Result<(), XmlError> {
    match child {
        "source" if disk.source == DiskSource::Empty => {
            let policy = element.attribute("startupPolicy")?;
            disk.optional = matches!(policy.as_deref(), Some("optional" | "requisite"));
            if let Some(source) = source(element)? {
                disk.source = source;
            }
        }
        "target" => disk.target = element.attribute("dev")?.unwrap_or_default(),
        "readonly" => disk.read_only = true,
        "shareable" => disk.shared = true,
        _ => {}
    }
    Ok(())
}

fn source(element: &Element<'_>) -> Result<Option<DiskSource>, XmlError> {
    if let (Some(pool), Some(volume)) = (element.attribute("pool")?, element.attribute("volume")?) {
        return Ok(Some(DiskSource::Volume { pool, volume }));
    }
    for key in ["dev", "file", "dir"] {
        if let Some(path) = element.attribute(key)? {
            return Ok(Some(DiskSource::Path(path)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain_xml::read;

    fn disks(xml: &str) -> Vec<Disk> {
        read(xml).unwrap().disks
    }

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
        let found = disks(xml);
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
        let top = Disk::new("vda", DiskSource::Path("/top".into()));
        assert_eq!(disks(xml), [top]);
    }

    #[test]
    fn a_volume_that_a_disk_is_read_from_must_be_there_unless_it_is_copied() {
        let xml = r#"<domain><devices>
          <disk type='volume' device='disk'><source pool='vms' volume='disk0'/><target dev='vda'/></disk>
          <disk type='block' device='disk'><source dev='/dev/notify/vms/disk1'/><target dev='vdb'/></disk>
          <disk type='volume' device='cdrom'><source pool='iso' volume='a'/><target dev='sda'/></disk>
          <disk type='file' device='cdrom'><source file='/b.iso'/><target dev='sdb'/></disk>
          <disk type='volume' device='cdrom'><source pool='iso' volume='c' startupPolicy='optional'/></disk>
          <disk type='volume' device='cdrom'><source pool='iso' volume='d' startupPolicy='mandatory'/></disk>
          <disk type='network' device='disk'><source protocol='rbd' name='p/v'/></disk>
        </devices></domain>"#;
        let vm = Domain { disks: disks(xml), ..crate::fake::domain("guest", 1) };
        let images: Vec<String> = vm.images().iter().map(ToString::to_string).collect();
        assert_eq!(images, ["a", "d"].map(|of| format!("the volume '{of}' of the pool 'iso'")));
    }
}
