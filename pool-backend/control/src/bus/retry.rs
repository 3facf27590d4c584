// SPDX-License-Identifier: LGPL-2.1-or-later
//! What waits for space is tried again at once: a person has made room, here or at a peer, and need not wait for the
//! next try.

use std::collections::BTreeSet;

use virtnotify_migrate::WaitingVm;
use virtnotify_model::{PoolName, WhenFull};

use super::Sources;
use super::error::Error;
use super::rows::RetriedRow;

/// Looks at the pools of the VMs that wait, then has those VMs move that still have none. Says of each what came of it.
pub async fn now(sources: &Sources) -> Result<Vec<RetriedRow>, Error> {
    sources.need_storage().await?;
    let mut waiting = sources.moves.picture().waiting;
    // Those that wait longest go first, as they would by themselves.
    waiting.sort_by_key(|vm| vm.since);
    let pools: BTreeSet<PoolName> = waiting.iter().map(|vm| vm.pool.clone()).collect();
    let refreshed = sources.ask(move |sources| {
        // One that cannot be looked at now is as it was: its VMs are tried all the same.
        pools.iter().for_each(|pool| drop(sources.storage.refresh_pool(pool)));
        Ok(())
    });
    refreshed.await?;
    let mut rows = Vec::new();
    for vm in waiting {
        let (result, reason) = again(sources, &vm).await;
        rows.push(RetriedRow(vm.domain, vm.uuid.to_string(), result.to_owned(), reason));
    }
    Ok(rows)
}

async fn again(sources: &Sources, vm: &WaitingVm) -> (&'static str, String) {
    let info = sources.storage.pool_info(&vm.pool);
    if info.is_ok_and(|info| info.available >= info.chunk.bytes()) {
        return ("resumes", String::new());
    }
    let policy = sources.storage.policy(&vm.pool);
    if policy.is_ok_and(|policy| policy.when_full != WhenFull::Migrate) {
        return ("waits", "the policy of its pool keeps it here".to_owned());
    }
    match sources.moves.ask(&vm.domain, None).await {
        Ok(_) => ("moves", String::new()),
        Err(error) => ("waits", error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;
    use virtnotify_migrate::Picture;
    use virtnotify_model::{Bytes, NewVolume, Pools as _, Storage as _};
    use virtnotifyd::fake::FakeStorage;

    use super::super::tests::over;
    use super::*;

    fn waiting(since: u64) -> WaitingVm {
        WaitingVm {
            domain: format!("guest{since}"),
            uuid: Uuid::from_u128(since.into()),
            pool: "vms".parse().unwrap(),
            volume: "disk0".parse().unwrap(),
            since,
            reason: String::new(),
        }
    }

    #[tokio::test]
    async fn a_vm_goes_on_where_there_is_space_and_stays_where_its_policy_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let fake = FakeStorage::new(directory.path(), "<notify:full action='pause'/>");
        let sources = over(&fake, directory.path());
        assert!(now(&sources).await.unwrap().is_empty());
        let waiting = vec![waiting(9), waiting(7)];
        sources.moves.publish(Picture { waiting, ..Picture::default() });
        let rows = async || {
            let rows = now(&sources).await.unwrap().into_iter();
            rows.map(|RetriedRow(vm, _, now, why)| (vm, now, why)).collect::<Vec<_>>()
        };
        let row = |vm: &str, now: &str, why: &str| (vm.to_owned(), now.to_owned(), why.to_owned());
        let goes = [row("guest7", "resumes", ""), row("guest9", "resumes", "")];
        assert_eq!(rows().await, goes, "the one that waits longest comes first");

        let vms = "vms".parse().unwrap();
        let left = fake.local.pool_info(&vms).unwrap().available;
        let name = "all".parse().unwrap();
        let all = NewVolume { name, capacity: Some(left), allocation: left, backing: None };
        fake.local.create_volume(&vms, &all).unwrap();
        assert_eq!(fake.local.pool_info(&vms).unwrap().available, Bytes::ZERO);
        let why = "the policy of its pool keeps it here";
        assert_eq!(rows().await, [row("guest7", "waits", why), row("guest9", "waits", why)]);
    }
}
