// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a read-only client is told when it may not.

use virtnotify_wire::{ErrorCode, ErrorDomain, Header, Procedure, RemoteError};

/// libvirt's own sentence, with the name of its function where we know it.
pub(crate) fn refusal(header: &Header) -> RemoteError {
    let procedure = header.known_procedure();
    let domain = match procedure {
        Some(procedure) if procedure.is_storage() => ErrorDomain::STORAGE,
        _ => ErrorDomain::RPC,
    };
    let what = procedure.map_or_else(
        || format!("procedure {} of program {:#x}", header.procedure, header.program),
        function,
    );
    let detail = format!("read only access prevents {what}");
    RemoteError::of(domain, ErrorCode::OPERATION_DENIED, detail)
}

/// The public function behind a procedure: `virStoragePoolCreateXML`.
fn function(procedure: Procedure) -> String {
    let words = procedure.name().split('_').map(|word| match word {
        "XML" | "UUID" | "URI" => word.to_owned(),
        _ => word[..1].to_owned() + &word[1..].to_lowercase(),
    });
    "vir".chars().chain(words.collect::<String>().chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_have_the_names_that_libvirt_gives_them() {
        assert_eq!(function(Procedure::StoragePoolCreateXml), "virStoragePoolCreateXML");
        assert_eq!(function(Procedure::StorageVolWipePattern), "virStorageVolWipePattern");
    }
}
