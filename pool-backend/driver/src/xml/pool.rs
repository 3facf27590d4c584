// SPDX-License-Identifier: LGPL-2.1-or-later
//! `<pool type='notify'>`.

use std::path::PathBuf;

use uuid::Uuid;
use virtnotify_model::{Bytes, ChunkSize, Policy, PoolInfo, PoolName, PoolSpec, VgName};
use virtnotify_wire::service::PoolXmlPeek;

use super::permissions::Permissions;
use super::print::Printer;
use super::tree::{Element, NOTIFY_NAMESPACE};
use super::{XmlError, clean_path, document, malformed, policy, schema};

/// What the pool is called in libvirt's error texts.
const DOCUMENT: &str = "storage_pool_definition";
/// More devices than a volume group is ever made of.
const DEVICES_MAX: usize = 256;

/// A pool as its XML describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolDefinition {
    /// Its name.
    pub name: PoolName,
    /// Its UUID.
    pub uuid: Uuid,
    /// Its volume group.
    pub vg: VgName,
    /// The devices to make the volume group of.
    pub devices: Vec<PathBuf>,
    /// Who may use its directory.
    pub permissions: Permissions,
    /// The chunk size that it is made with, where one was chosen.
    pub chunk: Option<ChunkSize>,
    /// What it does by itself, where the XML says so.
    pub policy: Option<Policy>,
}

/// The type under which a pool is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolType {
    /// What it is.
    Notify,
    /// The type that virtqemud's parser knows.
    Logical,
    /// The type that virt-install takes for thin block devices.
    Zfs,
}

/// What is printed of a pool besides its definition. The sizes are zero while it is not active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// The volume group.
    pub capacity: Bytes,
    /// What volumes hold.
    pub allocation: Bytes,
    /// What volumes can still get.
    pub available: Bytes,
    /// The chunk size that it has, which its definition need not name: a peer counts in it what a VM takes here.
    pub chunk: Option<ChunkSize>,
    /// Whether its host is drained: peers that read this send no VM.
    pub drained: bool,
}

impl From<PoolInfo> for Standing {
    fn from(info: PoolInfo) -> Self {
        let PoolInfo { capacity, allocation, available, chunk, .. } = info;
        Standing { capacity, allocation, available, chunk: Some(chunk), drained: false }
    }
}

impl PoolDefinition {
    /// Reads a definition. A missing UUID is made.
    ///
    /// # Errors When the text is no XML, no pool, not of type `notify`, or asks for something
    /// impossible.
    pub fn parse(text: &str, validate: bool) -> Result<Self, XmlError> {
        let root = document(text, DOCUMENT, "pool")?;
        check_type(&root)?;
        if validate {
            schema::check(&root, &schema::POOL)?;
        }
        let source = root.child("source");
        check_source_format(source)?;
        refuse_features(&root)?;
        let (name, vg) = names(&root)?;
        let uuid = uuid(&root)?;
        check_target(&root, &name)?;
        Ok(PoolDefinition {
            permissions: Permissions::parse(root.child("target"))?,
            devices: source.map_or(Ok(Vec::new()), devices)?,
            chunk: policy::chunk(&root)?,
            policy: policy::policy(&root)?,
            name,
            uuid,
            vg,
        })
    }

    /// What the backend needs to know.
    #[must_use]
    pub fn spec(&self) -> PoolSpec {
        PoolSpec {
            name: self.name.clone(),
            uuid: self.uuid,
            vg: self.vg.clone(),
            devices: self.devices.clone(),
            chunk: self.chunk.unwrap_or_default(),
            policy: self.policy.unwrap_or_default(),
        }
    }

    /// The directory of its volumes.
    #[must_use]
    pub fn target(&self) -> String {
        target(&self.name)
    }

    /// Prints it as libvirt prints a logical pool.
    #[must_use]
    pub fn print(&self, kind: PoolType, standing: &Standing) -> String {
        let tag = match kind {
            PoolType::Notify => "pool type='notify'",
            PoolType::Logical => "pool type='logical'",
            PoolType::Zfs => "pool type='zfs'",
        };
        let mut out = Printer::default();
        out.block(tag, |out| {
            out.value("name", &self.name);
            out.value("uuid", self.uuid.hyphenated());
            out.value("capacity unit='bytes'", standing.capacity.0);
            out.value("allocation unit='bytes'", standing.allocation.0);
            out.value("available unit='bytes'", standing.available.0);
            print_source(out, &self.devices, self.vg.as_str());
            out.block("target", |out| {
                out.value("path", self.target());
                self.permissions.print(out);
            });
            if kind == PoolType::Notify {
                policy::print(out, standing.chunk.or(self.chunk), self.policy.as_ref());
                if standing.drained {
                    out.empty("notify:drained", "xmlns:notify", NOTIFY_NAMESPACE);
                }
            }
        });
        out.finish()
    }
}

/// Prints `<source>`: of a pool, or one that was found.
pub(super) fn print_source(out: &mut Printer, devices: &[PathBuf], vg: &str) {
    out.block("source", |out| {
        for device in devices {
            out.empty("device", "path", device.display());
        }
        out.value("name", vg);
        out.empty("format", "type", "lvm2");
    });
}

fn target(name: &PoolName) -> String {
    format!("/dev/notify/{name}")
}

fn check_type(root: &Element) -> Result<(), XmlError> {
    match root.attribute("type") {
        Some("notify") => Ok(()),
        Some(other) => Err(XmlError::Malformed(format!(
            "Invalid value for attribute 'type' in element 'pool': '{other}'."
        ))),
        None => Err(malformed("Missing required attribute 'type' in element 'pool'")),
    }
}

fn check_source_format(source: Option<&Element>) -> Result<(), XmlError> {
    let format = source.and_then(|source| source.child("format"));
    match format.and_then(|format| format.attribute("type")) {
        None | Some("lvm2") => Ok(()),
        Some(other) => Err(XmlError::Unsupported(format!(
            "unknown pool format type {other}: a pool of type 'notify' lies in a volume group, \
             whose format is 'lvm2'"
        ))),
    }
}

fn refuse_features(root: &Element) -> Result<(), XmlError> {
    match root.at(&["features", "cow"]) {
        None => Ok(()),
        Some(_) => Err(XmlError::OtherPools(
            "cow feature may only be used for 'fs' and 'dir' pools".to_owned(),
        )),
    }
}

/// The names of the pool and its volume group; each stands for the other where it is missing.
fn names(root: &Element) -> Result<(PoolName, VgName), XmlError> {
    let vg = root.text_at(&["source", "name"]);
    let name = root.text_at(&["name"]).or(vg);
    let name = name.ok_or_else(|| malformed("missing pool source name element"))?;
    if name.contains('/') {
        return Err(XmlError::Malformed(format!("name {} cannot contain '/'", short(name))));
    }
    Ok((name.parse()?, vg.unwrap_or(name).parse()?))
}

/// The beginning of a text, enough to recognise it in a sentence.
fn short(text: &str) -> String {
    if text.chars().count() <= 64 {
        text.to_owned()
    } else {
        text.chars().take(64).chain(['…']).collect()
    }
}

fn uuid(root: &Element) -> Result<Uuid, XmlError> {
    match root.text_at(&["uuid"]) {
        None => Ok(Uuid::new_v4()),
        Some(text) => match text.parse::<virtnotify_wire::Uuid>() {
            Ok(uuid) => Ok(Uuid::from_bytes(uuid.0)),
            Err(_) => Err(malformed("malformed uuid element")),
        },
    }
}

fn check_target(root: &Element, name: &PoolName) -> Result<(), XmlError> {
    let Some(path) = root.text_at(&["target", "path"]) else { return Ok(()) };
    let target = target(name);
    if clean_path(path) == target {
        return Ok(());
    }
    Err(XmlError::Unsupported(format!(
        "the target path of the pool '{name}' can only be '{target}', not '{}'",
        short(path)
    )))
}

fn devices(source: &Element) -> Result<Vec<PathBuf>, XmlError> {
    if source.children("device").count() > DEVICES_MAX {
        return Err(XmlError::Malformed(format!("more than {DEVICES_MAX} source devices")));
    }
    source.children("device").map(device).collect()
}

fn device(element: &Element) -> Result<PathBuf, XmlError> {
    let path = element.attribute("path");
    let path = path.ok_or_else(|| malformed("missing storage pool source device path"))?;
    let tame = path.starts_with('/') && path.len() > 1 && !path.chars().any(char::is_control);
    if tame {
        Ok(PathBuf::from(path))
    } else {
        let path = short(path).escape_debug().to_string();
        Err(XmlError::Malformed(format!("the source device '{path}' is not an absolute path")))
    }
}

/// The type and names in a pool's XML; nothing else is checked.
#[must_use]
pub fn peek(text: &str) -> PoolXmlPeek {
    let Ok(root) = document(text, DOCUMENT, "pool") else {
        return PoolXmlPeek::default();
    };
    let name = root.text_at(&["name"]).or_else(|| root.text_at(&["source", "name"]));
    PoolXmlPeek {
        ours: root.attribute("type") == Some("notify"),
        name: name.map(str::to_owned),
        uuid: root.text_at(&["uuid"]).and_then(|uuid| uuid.parse().ok()),
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
