// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a VM uses of its host beside its disks, as its libvirt XML shows it: another host must have it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use thiserror::Error;
use uuid::Uuid;

use crate::domain_xml::{Element, XmlError};

/// What a VM uses of its host, beside its disks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// libvirt's networks to which it is connected, by name.
    pub networks: BTreeSet<String>,
    /// libvirt's secrets that open its disks or its TPM.
    pub secrets: BTreeSet<Uuid>,
    /// Whether its memory is of huge pages, which a host sets aside.
    pub huge_pages: bool,
    /// What QEMU makes for it.
    pub machine: Machine,
    /// Where the variables of its firmware are kept.
    pub nvram: Option<Nvram>,
    /// Why it is not let go; the first reason that its XML has.
    pub tie: Option<Tie>,
}

/// Where the variables of a firmware are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nvram {
    /// In a file, perhaps on a network file system.
    File(PathBuf),
    /// In something that is no file of a host.
    Elsewhere,
}

/// The machine that QEMU makes for a VM, in libvirt's words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// How it is run: `kvm`, `qemu`.
    pub kind: Option<String>,
    /// Its architecture: `x86_64`.
    pub arch: Option<String>,
    /// Its type: `pc-q35-7.2`.
    pub model: Option<String>,
    /// `<cpu>`, where it names a model, which a host may not be able to make. One that is whatever its host
    /// has names none.
    pub cpu: Option<String>,
}

/// Why a VM is not let go: for what libvirt refuses to move one (`qemuMigrationSrcIsAllowed` in its
/// `qemu_migration.c`) after room is kept and disks are made at the peer, and for what a peer may have another one of.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Tie {
    /// A disk is copied or committed (`virsh blockcopy`, `blockcommit --active`). Its XML says nothing of other
    /// jobs.
    #[error("libvirt copies or commits one of its disks (`virsh blockjob` tells of it)")]
    BlockJob,
    /// What is written to a disk is thrown away when the VM ends.
    #[error("it has a disk that is transient, and libvirt moves no such VM")]
    TransientDisk,
    /// Memory that another process of this host owns.
    #[error("its <shmem> device is memory of a process of this host, and libvirt moves no such VM")]
    SharedMemory,
    /// A device of this host; at its address another host may have any other, or none.
    #[error(
        "a device of this host is passed through to it ({0}), which another host has not: detach it first \
         (`virsh detach-device`)"
    )]
    HostDevice(String),
    /// A directory of this host.
    #[error(
        "a directory of this host is passed through to it (<filesystem>), which another host has not"
    )]
    Directory,
}

/// Finds them among the elements of a domain's XML.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    surroundings: Surroundings,
    /// Whether the CPU is of a model that it names.
    names_cpu: bool,
    /// The reason that the device being read gives to keep the VM here, unless the rest of it says otherwise.
    device: Option<Tie>,
}

impl Reader {
    /// What was said; the definition of the CPU is `cpu`.
    pub(crate) fn found(mut self, cpu: Option<String>) -> Surroundings {
        self.device_ends();
        self.surroundings.machine.cpu = cpu.filter(|_| self.names_cpu);
        self.surroundings
    }

    /// Takes in one element.
    pub(crate) fn see(&mut self, element: &Element<'_>) -> Result<(), XmlError> {
        let found = &mut self.surroundings;
        match element.path {
            ["domain"] => found.machine.kind = element.attribute("type")?,
            ["domain", "os", "type"] => {
                found.machine.arch = element.attribute("arch")?;
                found.machine.model = element.attribute("machine")?;
            }
            ["domain", "cpu", "model"] => self.names_cpu = true,
            ["domain", "os", "nvram"] => {
                let kind = element.attribute("type")?;
                let elsewhere = kind.is_some_and(|kind| kind != "file");
                found.nvram = elsewhere.then_some(Nvram::Elsewhere);
            }
            ["domain", "os", "nvram", "source"] if found.nvram.is_none() => {
                let file = element.attribute("file")?;
                found.nvram = file.map(|file| Nvram::File(file.into()));
            }
            ["domain", "memoryBacking", "hugepages"] => found.huge_pages = true,
            ["domain", "devices", rest @ ..] => {
                if rest.len() == 1 {
                    self.device_ends();
                }
                self.see_device(rest, element)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes in the text of `<nvram>`: the older way to name a file.
    pub(crate) fn nvram_is(&mut self, path: &str) {
        if path.starts_with('/') {
            self.surroundings.nvram = Some(Nvram::File(path.into()));
        }
    }

    fn see_device(&mut self, path: &[&str], element: &Element<'_>) -> Result<(), XmlError> {
        match path {
            ["interface", "source"] => {
                self.surroundings.networks.extend(element.attribute("network")?)
            }
            ["disk", .., "secret"] => self.surroundings.secrets.extend(uuid(element, "uuid")?),
            ["tpm", "backend", "encryption"] => {
                self.surroundings.secrets.extend(uuid(element, "secret")?)
            }
            ["disk", "mirror"] => self.tied(Tie::BlockJob),
            ["disk", "transient"] => self.tied(Tie::TransientDisk),
            ["shmem"] if element.attribute("role")?.as_deref() != Some("master") => {
                self.tied(Tie::SharedMemory);
            }
            ["filesystem"] => self.tied(Tie::Directory),
            ["hostdev"] => self.see_host_device(element)?,
            ["interface"] => {
                let kind = element.attribute("type")?.unwrap_or_default();
                if ["hostdev", "vdpa"].contains(&kind.as_str()) {
                    self.device = Some(Tie::HostDevice(format!("<interface type='{kind}'>")));
                }
            }
            // QEMU unplugs it for the time of a move, and another one goes on for it.
            ["hostdev" | "interface", "teaming"]
                if element.attribute("type")?.as_deref() == Some("transient") =>
            {
                self.device = None;
            }
            _ => {}
        }
        Ok(())
    }

    /// A USB device keeps no VM here: libvirt looks for one of the same kind there.
    fn see_host_device(&mut self, element: &Element<'_>) -> Result<(), XmlError> {
        let mode = element.attribute("mode")?.unwrap_or_default();
        let kind = element.attribute("type")?.unwrap_or_default();
        if mode == "capabilities" || kind != "usb" {
            self.device = Some(Tie::HostDevice(format!("<hostdev type='{kind}'>")));
        }
        Ok(())
    }

    fn tied(&mut self, tie: Tie) {
        self.surroundings.tie.get_or_insert(tie);
    }

    fn device_ends(&mut self) {
        if let Some(tie) = self.device.take() {
            self.tied(tie);
        }
    }
}

/// A secret can also be named by its use, of which this says nothing.
fn uuid(element: &Element<'_>, key: &str) -> Result<Option<Uuid>, XmlError> {
    Ok(element.attribute(key)?.and_then(|text| text.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain_xml::read;

    fn surroundings(xml: &str) -> Surroundings {
        read(xml).unwrap().surroundings
    }

    fn of(devices: &str) -> Surroundings {
        surroundings(&format!("<domain><devices>{devices}</devices></domain>"))
    }

    #[test]
    fn networks_and_huge_pages() {
        let found = of("<interface type='network'><source network='lan' portid='x' bridge='virbr0'/></interface>
          <interface type='network'><source network='dmz'/></interface>
          <interface type='bridge'><source bridge='br0'/></interface>");
        assert_eq!(found.networks, BTreeSet::from(["dmz".to_owned(), "lan".to_owned()]));
        let xml = "<domain><memoryBacking><hugepages><page size='2048'/></hugepages></memoryBacking></domain>";
        assert!(surroundings(xml).huge_pages);
        assert_eq!(of(""), Surroundings::default());
    }

    #[test]
    fn where_the_variables_of_the_firmware_are() {
        let of = |nvram: &str| surroundings(&format!("<domain><os>{nvram}</os></domain>")).nvram;
        let file = |path: &str| Some(Nvram::File(path.into()));
        assert_eq!(of("<nvram template='/t'>/var/a&amp;b.fd</nvram>"), file("/var/a&b.fd"));
        assert_eq!(
            of("<nvram type='file'>\n <source file='/var/c.fd'/></nvram>"),
            file("/var/c.fd")
        );
        assert_eq!(
            of("<nvram type='block'><source dev='/dev/x'/></nvram>"),
            Some(Nvram::Elsewhere)
        );
        assert_eq!(of("<nvram type='network'><source/></nvram>"), Some(Nvram::Elsewhere));
        assert_eq!((of("<nvram/>"), of("<loader>/l</loader>")), (None, None));
    }

    #[test]
    fn secrets_of_disks_and_of_the_tpm() {
        let (a, b, c) = (Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3));
        let found = of(&format!(
            "<disk><encryption format='luks'><secret type='passphrase' uuid='{a}'/></encryption></disk>
             <disk><source><auth username='u'><secret type='ceph' uuid='{b}'/></auth></source></disk>
             <disk><auth username='u'><secret type='ceph' usage='by name'/></auth></disk>
             <tpm><backend type='emulator'><encryption secret='{c}'/></backend></tpm>"
        ));
        assert_eq!(found.secrets, BTreeSet::from([a, b, c]));
    }

    #[test]
    fn for_what_it_is_not_let_go() {
        let device = |what: &str| Some(Tie::HostDevice(what.to_owned()));
        let teaming = "<teaming type='transient' persistent='net0'/>";
        let (pci, hostdev) = ("<hostdev mode='subsystem' type='pci'>", "<hostdev type='pci'>");
        let nic = "<interface type='hostdev'>";
        for (devices, tie) in [
            ("<disk><mirror type='file' job='copy'/></disk>".to_owned(), Some(Tie::BlockJob)),
            ("<disk><transient/></disk>".to_owned(), Some(Tie::TransientDisk)),
            ("<shmem name='a' role='peer'/>".to_owned(), Some(Tie::SharedMemory)),
            ("<shmem name='a'/>".to_owned(), Some(Tie::SharedMemory)),
            ("<shmem name='a' role='master'/>".to_owned(), None),
            ("<filesystem><source dir='/srv'/></filesystem>".to_owned(), Some(Tie::Directory)),
            (format!("{pci}<source/></hostdev>"), device(hostdev)),
            (format!("{pci}<source/>{teaming}</hostdev>"), None),
            ("<hostdev mode='subsystem' type='usb'/>".to_owned(), None),
            (
                "<hostdev mode='capabilities' type='usb'/>".to_owned(),
                device("<hostdev type='usb'>"),
            ),
            ("<hostdev mode='subsystem' type='scsi'/>".to_owned(), device("<hostdev type='scsi'>")),
            (format!("{nic}<source/></interface>"), device(nic)),
            (format!("{nic}{teaming}</interface>"), None),
            ("<interface type='vdpa'/>".to_owned(), device("<interface type='vdpa'>")),
            // The first counts, and what comes later does not take it away.
            (format!("<shmem/>{pci}{teaming}</hostdev>"), Some(Tie::SharedMemory)),
            (format!("{pci}</hostdev>{pci}{teaming}</hostdev>"), device(hostdev)),
        ] {
            assert_eq!(of(&devices).tie, tie, "{devices}");
        }
    }

    #[test]
    fn the_machine_and_the_model_of_its_cpu() {
        let xml = |cpu: &str| {
            format!(
                "<domain type='kvm'><os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
                 <x>&lt;cpu</x>{cpu}<devices/></domain>"
            )
        };
        let model =
            "<cpu mode='custom' match='exact'>\n  <model fallback='forbid'>Westmere</model></cpu>";
        let found = surroundings(&xml(model)).machine;
        let text = |word: &Option<String>| word.clone().unwrap();
        let words = [text(&found.kind), text(&found.arch), text(&found.model), text(&found.cpu)];
        assert_eq!(words, ["kvm", "x86_64", "pc-q35-7.2", model]);
        for own in ["", "<cpu/>", "<cpu mode='host-passthrough'><topology/></cpu>"] {
            assert_eq!(surroundings(&xml(own)).machine.cpu, None, "{own}");
        }
    }
}
