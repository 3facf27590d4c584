// SPDX-License-Identifier: LGPL-2.1-or-later
use super::*;

#[test]
fn every_number_leads_back_to_its_procedure() {
    for procedure in Procedure::ALL {
        assert_eq!(Procedure::from_number(procedure.number()), Some(*procedure));
    }
    assert_eq!(Procedure::from_number(0), None);
    assert_eq!(Procedure::from_number(-1), None);
    assert_eq!(Procedure::from_number(i32::MAX), None);
}

/// Written out, so that each new procedure is decided about here: does it change anything?
#[test]
fn a_read_only_client_may_call_what_changes_nothing() {
    use Procedure as P;
    let refused: Vec<Procedure> = Procedure::ALL
        .iter()
        .copied()
        .filter(|procedure| procedure.is_storage() && !procedure.allowed_read_only())
        .collect();
    let expected = [
        P::ConnectFindStoragePoolSources,
        P::StoragePoolCreateXml,
        P::StoragePoolDefineXml,
        P::StoragePoolCreate,
        P::StoragePoolBuild,
        P::StoragePoolDestroy,
        P::StoragePoolDelete,
        P::StoragePoolUndefine,
        P::StoragePoolRefresh,
        P::StoragePoolSetAutostart,
        P::StorageVolCreateXml,
        P::StorageVolDelete,
        P::StorageVolCreateXmlFrom,
        P::StorageVolWipe,
        P::StorageVolUpload,
        P::StorageVolDownload,
        P::StorageVolWipePattern,
        P::StorageVolResize,
    ];
    assert_eq!(refused, expected);
}

#[test]
fn what_a_newer_libvirt_adds_is_for_libvirt_to_refuse() {
    assert!(allowed_read_only(454));
    for number in [0, -1, i32::MIN, 450, 451, 452, 453] {
        assert!(!allowed_read_only(number), "{number}");
    }
    assert!(Procedure::ALL.iter().all(|procedure| procedure.number() <= 453));
    assert!(allowed_read_only(Procedure::AuthPolkit.number()));
}

/// What libvirt 9.0.0 and 11.3.0 ask their access drivers, written down from their sources.
const ACL: &str = include_str!("../testdata/acl-libvirt-11.3.txt");

#[test]
fn permissions_are_those_that_libvirt_asks_for() {
    let facts = ACL.lines().filter(|line| !line.starts_with('#'));
    let shown = |permissions: &[Permission]| {
        permissions.iter().map(Permission::to_string).collect::<Vec<_>>().join(" ")
    };
    let said = Procedure::ALL.iter().map(|procedure| {
        let (number, name) = (procedure.number(), procedure.name());
        let asked = match procedure.permissions() {
            [] => "none".to_owned(),
            permissions => shown(permissions),
        };
        match procedure.filter() {
            Some(filter) => format!("{number} {name} {asked} | {filter}"),
            None => format!("{number} {name} {asked}"),
        }
    });
    assert_eq!(said.collect::<Vec<_>>(), facts.collect::<Vec<_>>());
}

#[test]
fn permissions_have_the_names_that_polkit_knows() {
    let volumes = Procedure::StoragePoolListAllVolumes;
    let action = "org.libvirt.api.storage-pool.search-storage-vols";
    assert_eq!(volumes.permissions()[0].action(), action);
    assert_eq!(volumes.filter().unwrap().action(), "org.libvirt.api.storage-vol.getattr");
    let sources = Procedure::ConnectFindStoragePoolSources.permissions()[0];
    assert_eq!(sources.action(), "org.libvirt.api.connect.detect-storage-pools");
}

/// What is asked about an object that a call does not name could not be answered.
#[test]
fn each_permission_is_about_an_object_that_the_call_names() {
    use About as A;
    for procedure in Procedure::ALL.iter().filter(|procedure| procedure.is_storage()) {
        let about = procedure.about();
        for permission in procedure.permissions() {
            let named = match permission {
                Permission::Connect(_) => true,
                Permission::Pool(_) => !matches!(
                    about,
                    A::Pools(..) | A::Capabilities | A::Sources | A::Register | A::Deregister
                ),
                Permission::Volume(_) => matches!(
                    about,
                    A::VolumeName
                        | A::VolumeKey
                        | A::VolumePath
                        | A::NewVolume
                        | A::Clone
                        | A::Volume
                        | A::Download
                        | A::Upload
                ),
            };
            assert!(named, "{procedure}: {permission} of {about:?}");
        }
        let lists = matches!(about, A::Pools(..) | A::Volumes(_) | A::Register);
        assert_eq!(procedure.filter().is_some(), lists, "{procedure}");
    }
}
