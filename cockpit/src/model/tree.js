// SPDX-License-Identifier: LGPL-2.1-or-later
// Volumes and snapshots of a pool, as they stand on each other.

/** The name of a snapshot without its volume's: `VOLUME@NAME` is `NAME`. */
export function shortName(volume) {
    return volume.Kind === "snapshot" ? volume.Name.slice(volume.Name.indexOf("@") + 1) : volume.Name;
}

/** The volume's name in the name of a snapshot. */
export function volumeOf(name) {
    return name.split("@")[0];
}

/**
 * Rows of a table: each with its depth; what stands on something follows it. What names a backing that is not there
 * stands at the top, and so does what would stand on itself.
 */
export function rows(volumes) {
    const byPath = new Map(volumes.map(volume => [volume.path, volume]));
    const children = new Map();
    const tops = [];
    for (const volume of volumes) {
        if (byPath.has(volume.Backing) && !isLoop(volume, byPath))
            children.set(volume.Backing, [...(children.get(volume.Backing) ?? []), volume]);
        else
            tops.push(volume);
    }
    const found = [];
    const walk = (volume, depth) => {
        const below = (children.get(volume.path) ?? []).sort(byAge);
        found.push({ volume, depth, children: below.length });
        below.forEach(child => walk(child, depth + 1));
    };
    tops.sort(byName).forEach(volume => walk(volume, 0));
    return found;
}

function isLoop(volume, byPath) {
    const seen = new Set();
    for (let at = volume; at; at = byPath.get(at.Backing)) {
        if (seen.has(at.path))
            return true;
        seen.add(at.path);
    }
    return false;
}

function byName(a, b) {
    return a.Name.localeCompare(b.Name, undefined, { numeric: true });
}

function byAge(a, b) {
    return (a.Created ?? 0) - (b.Created ?? 0) || byName(a, b);
}

/**
 * What a roll back to a snapshot loses: what was written since, and of which age that is. Snapshots stay, also
 * the newer ones.
 */
export function lostByRollBack(snapshot, volumes, now) {
    const volume = volumes.find(({ path }) => path === snapshot.Backing) ??
        volumes.find(({ Name }) => Name === volumeOf(snapshot.Name));
    return {
        volume: volume?.Name ?? volumeOf(snapshot.Name),
        seconds: Math.max(0, now / 1000 - (snapshot.Created ?? now / 1000)),
        // What the volume alone holds was written since its newest snapshot.
        exclusive: volume?.Exclusive ?? null,
        capacityBefore: volume?.Capacity ?? null,
        capacityAfter: snapshot.Capacity ?? null,
    };
}

/** The volumes that hold most of what would come free with them. */
export function largestHolders(volumes, most) {
    const held = volumes.filter(({ Exclusive }) => Exclusive > 0);
    return held.sort((a, b) => b.Exclusive - a.Exclusive).slice(0, most);
}
