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
