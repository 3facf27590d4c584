// SPDX-License-Identifier: LGPL-2.1-or-later
// Where a volume's chunks lie, from the text of a pool's map (docs/developer/on-disk.md).

const FIRST = "virtnotify-pool 2";

/** Reads a text. Throws an `Error` with a sentence where it is none that this page knows. */
export function parse(text) {
    const lines = text.split("\n");
    if (lines[0] !== FIRST)
        throw new Error(`the map begins with '${lines[0].slice(0, 60)}', not with '${FIRST}'`);
    const pool = { vg: "", chunkBytes: 0, layers: new Map(), volumes: [] };
    let layer = null;
    let volume = null;
    for (const line of lines) {
        const [key, ...words] = line.split(" ");
        switch (key) {
        case "vg": pool.vg = words[0]; break;
        case "chunk-bytes": pool.chunkBytes = Number(words[0]); break;
        case "layer":
            layer = { parent: Number(words[1]), runs: [] };
            pool.layers.set(Number(words[0]), layer);
            break;
        case "run":
        case "hole": layer.runs.push(readRun(key, words[0])); break;
        case "volume":
            volume = { name: words[1], capacity: 0, layer: 0 };
            pool.volumes.push(volume);
            break;
        case "capacity": volume.capacity = Number(words[0]); break;
        case "shows": volume.layer = Number(words[0]); break;
        }
    }
    return pool;
}

function readRun(kind, word) {
    const numbers = word.split(":").map(Number);
    if (kind === "hole")
        return { chunk: numbers[0], lv: null, place: 0, count: numbers[1] };
    return { chunk: numbers[0], lv: numbers[1], place: numbers[2], count: numbers[3] };
}

/** The map of a volume or a snapshot; null when the pool has none of that name. */
export function volumeMap(pool, name) {
    const volume = pool.volumes.find(each => each.name === name);
    if (!volume)
        return null;
    const runs = flatten(pool.layers, volume.layer);
    return { name, capacity: volume.capacity, chunkBytes: pool.chunkBytes, runs };
}

/** What a layer shows: its own runs, and below them what its parents have. A hole hides what lies below it. */
function flatten(layers, id) {
    let shown = [];
    const seen = new Set();
    for (let at = id; at && layers.has(at) && !seen.has(at); at = layers.get(at).parent) {
        seen.add(at);
        shown = under(shown, layers.get(at).runs);
    }
    return joined(shown.filter(({ lv }) => lv !== null));
}

/** `above` and the parts of `below` that it does not cover, in their order. Both are sorted. */
function under(above, below) {
    const rest = [];
    let next = 0;
    for (const run of below) {
        let at = run.chunk;
        const end = run.chunk + run.count;
        while (next > 0 && above[next - 1].chunk + above[next - 1].count > at)
            next -= 1;
        while (next < above.length && above[next].chunk + above[next].count <= at)
            next += 1;
        for (let n = next; at < end; n += 1) {
            const begin = n < above.length ? Math.min(end, above[n].chunk) : end;
            if (begin > at)
                rest.push({ ...run, chunk: at, place: run.place + (at - run.chunk), count: begin - at });
            at = n < above.length ? Math.max(at, above[n].chunk + above[n].count) : end;
        }
    }
    return [...above, ...rest].sort((a, b) => a.chunk - b.chunk);
}

/** Runs that continue each other in the volume and on the logical volume are one. */
function joined(runs) {
    const all = [];
    for (const run of runs) {
        const last = all[all.length - 1];
        if (last && last.lv === run.lv && last.chunk + last.count === run.chunk &&
            last.place + last.count === run.place)
            last.count += run.count;
        else
            all.push({ ...run });
    }
    return all;
}

/** What is said of a map: bytes that it holds, runs, and how often a sequential reader goes on in one. */
export function summary(map) {
    const held = map.runs.reduce((sum, { count }) => sum + count, 0);
    const inside = held - map.runs.length;
    const follows = map.runs.filter((run, at) => at > 0 &&
        map.runs[at - 1].chunk + map.runs[at - 1].count === run.chunk).length;
    const steps = inside + follows;
    return {
        bytes: held * map.chunkBytes,
        runs: map.runs.length,
        mean: map.runs.length ? (held * map.chunkBytes) / map.runs.length : 0,
        sequential: steps ? (inside / steps) * 100 : 100,
    };
}

/**
 * Bars to draw: the volume from its beginning to its end, and each data LV as far as it reaches. A run has the same
 * number in both. At most `most` parts are told in a bar; runs that would be narrower than a part are drawn with the
 * one before them.
 */
export function bars(map, most = 2000) {
    const total = Math.max(1, Math.ceil(map.capacity / map.chunkBytes));
    const numbered = map.runs.map((run, number) => ({ ...run, number }));
    const lvs = [...new Set(numbered.map(({ lv }) => lv))].sort((a, b) => a - b);
    const volume = bar("volume", total, numbered.map(run => [run.chunk, run.count, run.number]), most);
    return [volume, ...lvs.map(lv => {
        const own = numbered.filter(run => run.lv === lv).sort((a, b) => a.place - b.place);
        const { place, count } = own[own.length - 1];
        const reach = place + count;
        return bar(`lv${lv}`, reach, own.map(run => [run.place, run.count, run.number]), most);
    })];
}

function bar(id, total, parts, most) {
    const least = total / most;
    const shown = [];
    for (const [first, count, number] of parts) {
        const last = shown[shown.length - 1];
        if (last && first + count - last.first < least)
            last.count = first + count - last.first;
        else
            shown.push({ first, count, number });
    }
    return { id, total, parts: shown };
}
