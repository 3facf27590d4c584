// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a VM uses of its host beside its disks, as its libvirt XML shows it: another host must have it.

use std::collections::BTreeSet;

use quick_xml::events::BytesStart;
use thiserror::Error;
use uuid::Uuid;

use crate::domain::{XmlError, attribute, each_element};

/// What a VM uses of its host, beside its disks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// libvirt's networks to which it is connected, by name.
    pub networks: BTreeSet<String>,
    /// libvirt's secrets that open its disks or its TPM.
    pub secrets: BTreeSet<Uuid>,
    /// Whether its memory is of huge pages, which a host sets aside.
    pub huge_pages: bool,
    /// Why libvirt would not let it go.
    pub tie: Option<Tie>,
}

/// For what libvirt refuses to move a VM, whatever QEMU says (`qemuMigrationSrcIsAllowed` in its
/// `qemu_migration.c`): after room is kept and disks are made at the peer, so it is looked for before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
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
}

/// What a domain's XML says of it.
///
/// # Errors
/// When it is no XML.
pub(crate) fn surroundings(xml: &str) -> Result<Surroundings, XmlError> {
    let mut found = Surroundings::default();
    each_element(xml, |path, tag| element(path, tag, &mut found))?;
    Ok(found)
}

fn element(path: &[&str], tag: &BytesStart<'_>, found: &mut Surroundings) -> Result<(), XmlError> {
    match path {
        ["domain", "devices", "interface", "source"] => {
            found.networks.extend(attribute(tag, "network")?)
        }
        ["domain", "devices", "disk", .., "secret"] => found.secrets.extend(uuid(tag, "uuid")?),
        ["domain", "devices", "tpm", "backend", "encryption"] => {
            found.secrets.extend(uuid(tag, "secret")?)
        }
        ["domain", "memoryBacking", "hugepages"] => found.huge_pages = true,
        ["domain", "devices", "disk", "mirror"] => found.tie = Some(Tie::BlockJob),
        ["domain", "devices", "disk", "transient"] => found.tie = Some(Tie::TransientDisk),
        ["domain", "devices", "shmem"] if attribute(tag, "role")?.as_deref() != Some("master") => {
            found.tie = Some(Tie::SharedMemory);
        }
        _ => {}
    }
    Ok(())
}

/// A secret can also be named by its use, of which this says nothing.
fn uuid(tag: &BytesStart<'_>, key: &str) -> Result<Option<Uuid>, XmlError> {
    Ok(attribute(tag, key)?.and_then(|text| text.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(devices: &str) -> Surroundings {
        surroundings(&format!("<domain><devices>{devices}</devices></domain>")).unwrap()
    }

    #[test]
    fn networks_and_huge_pages() {
        let found = of("<interface type='network'><source network='lan' portid='x' bridge='virbr0'/></interface>
          <interface type='network'><source network='dmz'/></interface>
          <interface type='bridge'><source bridge='br0'/></interface>");
        assert_eq!(found.networks, BTreeSet::from(["dmz".to_owned(), "lan".to_owned()]));
        let xml = "<domain><memoryBacking><hugepages><page size='2048'/></hugepages></memoryBacking></domain>";
        assert!(surroundings(xml).unwrap().huge_pages);
        assert_eq!(of(""), Surroundings::default());
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
    fn for_what_libvirt_refuses_it() {
        for (devices, tie) in [
            ("<disk><mirror type='file' job='copy'/></disk>", Some(Tie::BlockJob)),
            ("<disk><transient/></disk>", Some(Tie::TransientDisk)),
            ("<shmem name='a' role='peer'/>", Some(Tie::SharedMemory)),
            ("<shmem name='a'/>", Some(Tie::SharedMemory)),
            ("<shmem name='a' role='master'/>", None),
        ] {
            assert_eq!(of(devices).tie, tie, "{devices}");
        }
    }
}
