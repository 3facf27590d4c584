// SPDX-License-Identifier: LGPL-2.1-or-later
// What `Plan` answers, with names.

export function readPlan([domain, uuid, stays, to, bytes, seconds, candidates]) {
    return {
        domain,
        uuid,
        // A sentence where the VM cannot go, else nothing.
        stays: stays ? stays[0].toUpperCase() + stays.slice(1) : "",
        to,
        bytes,
        seconds,
        candidates: candidates.map(([name, isPossible, free, why]) => ({ name, isPossible, free, why })),
    };
}
