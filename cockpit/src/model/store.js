// SPDX-License-Identifier: LGPL-2.1-or-later
// What the page knows of the daemon's objects. Pure: each function returns a new picture.

import * as samples from "./samples.js";

const PREFIX = "org.virtnotify1.";
const KINDS = ["Pool", "Volume", "Vm", "Job", "Move", "Peer", "Waiting"];

/** Nothing is known. */
export const EMPTY = { objects: new Map(), past: new Map(), fills: new Map(), progress: new Map(), growths: new Map() };

/** What `GetManagedObjects` answered, in the place of all that was known of objects; what was seen over time stays. */
export function replaced(picture, managed, now) {
    let next = { ...picture, objects: new Map() };
    for (const [path, interfaces] of Object.entries(managed))
        next = added(next, path, interfaces, now);
    return next;
}

/** An object is there, or has one more interface. */
export function added(picture, path, interfaces, now) {
    const kind = KINDS.find(name => interfaces[PREFIX + name]);
    if (!kind)
        return picture;
    const properties = plain(interfaces[PREFIX + kind]);
    return noted(put(picture, path, { ...properties, kind, path }), path, now);
}

/** An object is gone, and with it how it went on. */
export function removed(picture, path) {
    const [objects, progress, past] = [new Map(picture.objects), new Map(picture.progress), new Map(picture.past)];
    objects.delete(path);
    progress.delete(path);
    past.delete(path);
    return { ...picture, objects, progress, past };
}

/** Properties have other values; those that are no longer valid are left as they were. */
export function changed(picture, path, properties, now) {
    const before = picture.objects.get(path);
    // One that is not known yet comes whole, with the list.
    if (!before)
        return picture;
    return noted(put(picture, path, { ...before, ...plain(properties) }), path, now);
}

/** A volume grew. */
export function grown(picture, pool, volume, by, now) {
    const key = `${pool}/${volume}`;
    const points = picture.growths.get(key) ?? [];
    const value = (points[points.length - 1]?.value ?? 0) + by;
    const growths = new Map(picture.growths);
    growths.set(key, samples.add(points.length ? points : [{ time: now - 1000, value: 0 }], { time: now, value }, 60));
    return { ...picture, growths };
}

/** The daemon has told how full a pool was before: rows of time, capacity, available. */
export function recalled(picture, path, rows) {
    const past = new Map(picture.past);
    past.set(path, rows.map(([time, capacity, available]) => ({ time: time * 1000, value: capacity - available })));
    return { ...picture, past };
}

/** How full a pool was since then: as it was noted, and from when the page was opened on as it was seen. */
export function fill(picture, path, since = 0) {
    const seen = picture.fills.get(path) ?? [];
    const noted = (picture.past.get(path) ?? []).filter(({ time }) => !(time >= seen[0]?.time));
    return [...noted, ...seen].filter(({ time }) => time >= since);
}

function put(picture, path, object) {
    const objects = new Map(picture.objects);
    objects.set(path, object);
    return { ...picture, objects };
}

/** Keeps what goes on over time: the fill of pools, the progress of jobs and moves. */
function noted(picture, path, now) {
    const object = picture.objects.get(path);
    if (object.kind === "Pool" && object.Active)
        return filled(picture, object, now);
    if (object.kind === "Job" || object.kind === "Move")
        return progressed(picture, object, now);
    return picture;
}

/** A second between two points of a curve, at least. */
const STEP = 1000;

function filled(picture, pool, now) {
    const points = picture.fills.get(pool.path) ?? [];
    const value = pool.Capacity - pool.Available;
    // Within a step the newest point counts.
    const isSoon = points.length > 1 && now - points[points.length - 2].time < STEP;
    const fills = new Map(picture.fills);
    fills.set(pool.path, samples.add(isSoon ? points.slice(0, -1) : points, { time: now, value }));
    return { ...picture, fills };
}

function progressed(picture, object, now) {
    const points = picture.progress.get(object.path) ?? [];
    const progress = new Map(picture.progress);
    progress.set(object.path, samples.add(points, { time: now, value: work(object).done }, 60));
    return { ...picture, progress };
}

/** What a job or a move has done, and has to do. */
export function work(object) {
    if (object.kind === "Move")
        return { done: object.Done ?? 0, total: object.Total ?? 0 };
    const done = (object.Looked ?? 0) + (object.Moved ?? 0);
    return { done, total: (object.ToLook ?? 0) + (object.Total ?? 0) };
}

/** Values without their D-Bus types. */
export function plain(properties) {
    return Object.fromEntries(Object.entries(properties ?? {}).map(([name, { v }]) => [name, v]));
}

/** All objects of a kind, by their names. */
export function all(picture, kind) {
    const found = [...picture.objects.values()].filter(object => object.kind === kind);
    return found.sort((a, b) => String(a.Name ?? a.path).localeCompare(String(b.Name ?? b.path), undefined, { numeric: true }));
}

/** The volumes and snapshots of a pool. */
export function volumesOf(picture, pool) {
    return all(picture, "Volume").filter(volume => volume.Pool === pool.path);
}

/** The pools: those that are started come first. */
export function pools(picture) {
    return all(picture, "Pool").sort((a, b) => Number(b.Active) - Number(a.Active));
}

/** A pool by its name. */
export function poolNamed(picture, name) {
    return all(picture, "Pool").find(pool => pool.Name === name);
}

/** The VMs that have a volume. An older daemon tells none. */
export function vmsOf(picture, volume) {
    return (volume.Vms ?? []).map(path => picture.objects.get(path)).filter(Boolean);
}

/** How a pool is: `inactive`, `damaged`, `full`, `low` or `fine`. An older daemon does not tell that one is damaged. */
export function state(picture, pool) {
    if (!pool.Active)
        return "inactive";
    if (pool.Damaged)
        return "damaged";
    if (volumesOf(picture, pool).some(volume => volume.State === "out-of-space"))
        return "full";
    return pool.LowMark > 0 && pool.Available < pool.LowMark ? "low" : "fine";
}
