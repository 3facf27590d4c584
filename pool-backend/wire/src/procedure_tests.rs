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

/// Written out: whoever adds a procedure decides here whether it changes anything.
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
