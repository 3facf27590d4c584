// SPDX-License-Identifier: LGPL-2.1-or-later
// What needs neither a browser nor a bus.

import assert from "node:assert/strict";
import { test } from "node:test";

import { add as addEvent, describe as event, remembered } from "../src/model/events.js";
import { bars, parse, summary, volumeMap } from "../src/model/map.js";
import { readPlan } from "../src/model/plan.js";
import { changes, exact, form } from "../src/model/policy.js";
import { canStart, kind, sentence, whyGone, whySilent } from "../src/model/problems.js";
import * as samples from "../src/model/samples.js";
import { clock, duration, parseSize, percent, rate, setLanguage, size, timeToFull } from "../src/model/sizes.js";
import * as store from "../src/model/store.js";
import { largestHolders, lostByRollBack, rows, shortName } from "../src/model/tree.js";

const GIB = 1 << 30;
const plainSpaces = text => text.replaceAll("\u00a0", " ");

test("sizes have three digits that count", () => {
    const said = [0, 1023, 1024, 1536, 10.25 * 1024, 123.4 * 1024, GIB, 2 ** 64].map(bytes => plainSpaces(size(bytes)));
    assert.deepEqual(said, ["0 B", "1,023 B", "1 KiB", "1.5 KiB", "10.3 KiB", "123 KiB", "1 GiB", "16 EiB"]);
    assert.equal(plainSpaces(rate(1536)), "1.5 KiB/s");
    setLanguage("de");
    assert.equal(plainSpaces(size(1536)), "1,5 KiB");
    setLanguage("en");
});

test("a size is read as people write it", () => {
    const read = ["100 GiB", "1.5T", "1,5t", "7", " 2 kb ", "64MiB", "0"].map(parseSize);
    assert.deepEqual(read, [100 * GIB, 1.5 * 2 ** 40, 1.5 * 2 ** 40, 7, 2048, 64 * 2 ** 20, 0]);
    for (const text of ["", "x", "-1", "1 x", "1e3", "GiB", "99999999999 PiB"])
        assert.equal(parseSize(text), null, text);
});

test("a policy becomes a form, and what is changed in it settings", () => {
    const policy = { "low-mark": { t: "s", v: "10%" }, "when-full": { t: "s", v: "pause" }, overcommit: { t: "d", v: 1.5 }, bandwidth: { t: "t", v: 100 * 2 ** 20 }, movable: { t: "b", v: true } };
    const before = form(policy);
    assert.deepEqual([before["low-mark"], before.overcommit, before.bandwidth, before.movable, before["growth-most"]], ["10%", "1.5", "100 MiB", "yes", ""]);
    assert.deepEqual(changes(before, before), {});
    const after = { ...before, bandwidth: " ", movable: "no", "low-mark": "10% " };
    assert.deepEqual(changes(before, after), { bandwidth: { t: "s", v: "none" }, movable: { t: "s", v: "no" } });
    assert.deepEqual([exact(3 * 2 ** 40), exact(1536 * 2 ** 20), exact(7)], ["3 TiB", "1536 MiB", "7 B"]);
});

test("a percentage stays between 0 and 100, also of nothing", () => {
    assert.deepEqual([percent(1, 4), percent(5, 4), percent(1, 0), percent(-1, 4)], [25, 100, 0, 0]);
});

test("durations have their two largest units", () => {
    const said = [0, 59, 60, 61, 3600, 3661, 90000, 86400 * 3].map(seconds => plainSpaces(duration(seconds)));
    assert.deepEqual(said, ["0 s", "59 s", "1 min", "1 min 1 s", "1 h", "1 h 1 min", "1 d 1 h", "3 d"]);
});

test("no time means that a pool does not grow", () => {
    assert.equal(timeToFull(0), null);
    assert.equal(timeToFull(Number("18446744073709551615")), null, "so an older daemon says it");
    assert.equal(timeToFull(undefined), null);
    assert.equal(timeToFull(90), 90);
});

test("the clock has the date of another day alone", () => {
    const now = new Date(2026, 10, 29, 12, 0);
    assert.equal(clock(new Date(2026, 10, 29, 9, 5).getTime(), now), "09:05");
    assert.match(clock(new Date(2026, 10, 28, 9, 5).getTime(), now), /Nov 28, 2026.*09:05/);
});

test("of too many points the older half is thinned, and the ends stay", () => {
    let points = [];
    for (let time = 0; time < 25; time += 1)
        points = samples.add(points, { time, value: time }, 10);
    assert.ok(points.length <= 10);
    assert.equal(points[0].time, 0);
    assert.equal(points[points.length - 1].time, 24);
    assert.deepEqual(points.map(({ time }) => time), points.map(({ time }) => time).sort((a, b) => a - b));
});

test("speed is that of the last seconds", () => {
    const points = [{ time: 0, value: 0 }, { time: 60000, value: 1000 }, { time: 70000, value: 3000 }];
    assert.equal(samples.speed(points, 30, 70000), 200);
    assert.equal(samples.speed(points.slice(0, 1), 30, 0), null);
    assert.equal(samples.speed([{ time: 5, value: 9 }, { time: 1005, value: 4 }], 30, 1005), 0);
    assert.equal(samples.timeLeft(1, 11, 2), 5);
    assert.equal(samples.timeLeft(1, 11, 0), null);
});

test("a curve reaches from edge to edge, and never out of its box", () => {
    const drawn = samples.curve([{ time: 10, value: 0 }, { time: 20, value: 50 }, { time: 30, value: 500 }], 100, 200, 80);
    assert.equal(drawn.line, "M0 80L100 40L200 0");
    assert.equal(drawn.area, "M0 80L100 40L200 0L200 80L0 80Z");
    assert.equal(samples.curve([{ time: 1, value: 1 }], 100, 200, 80), null);
    assert.equal(samples.curve([{ time: 1, value: 1 }, { time: 2, value: 1 }], 0, 200, 80), null);
});

test("a curve has a gap where nothing was noted", () => {
    const drawn = samples.curve([{ time: 0, value: 50 }, { time: 10, value: 50 }, { time: 90, value: 100 }, { time: 100, value: 0 }], 100, 100, 80, 20);
    assert.equal(drawn.line, "M0 40L10 40M90 0L100 80");
    assert.equal(drawn.area, "M0 40L10 40L10 80L0 80ZM90 0L100 80L100 80L90 80Z");
});

const volume = (Name, Backing = "/", more = {}) => ({ path: `/v/${Name}`, Name, Backing, Kind: Name.includes("@") ? "snapshot" : "volume", ...more });

test("the tree has what stands on something below it, the oldest first", () => {
    const all = [
        volume("b10"), volume("b9"), volume("a@new", "/v/a", { Created: 9 }), volume("a@old", "/v/a", { Created: 3 }),
        volume("copy", "/v/a@old"), volume("a"), volume("orphan", "/v/gone"),
    ];
    const found = rows(all).map(({ volume: { Name }, depth, children }) => [Name, depth, children]);
    assert.deepEqual(found, [["a", 0, 2], ["a@old", 1, 1], ["copy", 2, 0], ["a@new", 1, 0], ["b9", 0, 0], ["b10", 0, 0], ["orphan", 0, 0]]);
    assert.equal(shortName(all[2]), "new");
});

test("volumes that would stand on each other are all there, once", () => {
    const found = rows([volume("a", "/v/b"), volume("b", "/v/a"), volume("c", "/v/c")]).map(({ volume: { Name } }) => Name);
    assert.deepEqual(found, ["a", "b", "c"]);
});

test("a roll back names what is lost", () => {
    const snapshot = volume("a@s", "/v/a", { Created: 1000, Capacity: 5 });
    const lost = lostByRollBack(snapshot, [volume("a", "/", { Exclusive: 7, Capacity: 9 }), snapshot], 1_060_000);
    assert.deepEqual(lost, { volume: "a", seconds: 60, exclusive: 7, capacityBefore: 9, capacityAfter: 5 });
});

test("who holds most comes first, and who holds nothing not at all", () => {
    const all = [volume("a", "/", { Exclusive: 1 }), volume("b", "/", { Exclusive: 3 }), volume("c", "/", { Exclusive: 0 }), volume("d")];
    assert.deepEqual(largestHolders(all, 5).map(({ Name }) => Name), ["b", "a"]);
});

const TEXT = `virtnotify-pool 2
# a remark
vg vg0
name vms
chunk-bytes 1048576
data-lv 0 x

layer 1 0 1 0
run 0:0:10:4
run 8:0:20:2

layer 2 1 2 5
run 1:0:30:1
hole 2:1
run 9:1:0:3

volume 1 base@s
capacity 12582912
shows 1

volume 2 top
capacity 12582912
shows 2
end 00000000
`;

test("a volume shows its own layer, and what lies below it", () => {
    const pool = parse(TEXT);
    assert.equal(pool.vg, "vg0");
    const { runs } = volumeMap(pool, "top");
    assert.deepEqual(runs.map(({ chunk, lv, place, count }) => [chunk, lv, place, count]),
                     [[0, 0, 10, 1], [1, 0, 30, 1], [3, 0, 13, 1], [8, 0, 20, 1], [9, 1, 0, 3]]);
    assert.deepEqual(volumeMap(pool, "base@s").runs.map(({ chunk, count }) => [chunk, count]), [[0, 4], [8, 2]]);
    assert.equal(volumeMap(pool, "other"), null);
    assert.throws(() => parse("<html>"), /begins with '<html>'/);
});

test("any layers show what a plain look-up shows", () => {
    let seed = 7;
    // The low bits of such a generator repeat soon.
    const random = below => {
        seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
        return (seed >>> 12) % below;
    };
    for (let round = 0; round < 200; round += 1) {
        const lines = ["virtnotify-pool 2", "vg v", "chunk-bytes 1"];
        const plain = new Map();
        const depth = 1 + random(4);
        for (let layer = 1; layer <= depth; layer += 1) {
            lines.push(`layer ${layer} ${layer - 1} 1 0`);
            for (let chunk = random(3); chunk < 30; chunk += 1 + random(6)) {
                const count = 1 + random(4);
                const [isHole, place] = [random(4) === 0, random(1000)];
                lines.push(isHole ? `hole ${chunk}:${count}` : `run ${chunk}:0:${place}:${count}`);
                for (let n = 0; n < count; n += 1)
                    isHole ? plain.delete(chunk + n) : plain.set(chunk + n, place + n);
                chunk += count;
            }
        }
        lines.push("volume 1 v", "capacity 40", `shows ${depth}`);
        const shown = new Map();
        for (const { chunk, place, count } of volumeMap(parse(lines.join("\n")), "v").runs)
            for (let n = 0; n < count; n += 1)
                shown.set(chunk + n, place + n);
        assert.deepEqual([...shown].sort((a, b) => a[0] - b[0]), [...plain].sort((a, b) => a[0] - b[0]), lines.join("\n"));
    }
});

test("a map is summed up as the command does it", () => {
    const run = (chunk, place, count) => ({ chunk, lv: 0, place, count });
    const map = { name: "d", capacity: 8 << 20, chunkBytes: 1 << 20, runs: [run(0, 4, 2), run(5, 0, 1), run(7, 8, 1)] };
    assert.deepEqual(summary(map), { bytes: 4 << 20, runs: 3, mean: (4 << 20) / 3, sequential: 100 });
    map.runs.push(run(8, 20, 2));
    assert.equal(Math.floor(summary(map).sequential), 66);
    const [top, lv] = bars(map);
    assert.equal(top.total, 8);
    assert.deepEqual(lv.parts.map(({ first, count, number }) => [first, count, number]), [[0, 1, 1], [4, 2, 0], [8, 1, 2], [20, 2, 3]]);
    assert.equal(lv.total, 22);
});

test("a bar of very many runs is drawn in as many parts as can be seen", () => {
    const runs = Array.from({ length: 300000 }, (_, n) => ({ chunk: 2 * n, lv: 0, place: 600000 - 2 * n, count: 1 }));
    const [top] = bars({ capacity: 600000, chunkBytes: 1, runs }, 500);
    assert.ok(top.parts.length <= 1000, String(top.parts.length));
    assert.ok(top.parts.every(({ first, count }) => first + count <= 600000));
});

test("errors are told apart by their names", () => {
    const error = (name, problem) => kind({ name, problem });
    assert.equal(error("org.virtnotify1.Error.NotAuthorized"), "denied");
    assert.equal(error(null, "access-denied"), "denied");
    assert.equal(error("org.freedesktop.DBus.Error.UnknownMethod"), "unknown");
    assert.equal(error("org.freedesktop.DBus.Error.ServiceUnknown"), "gone");
    assert.equal(error(null, "not-found"), "gone");
    assert.equal(error("org.virtnotify1.Error.Failed"), "failed");
    assert.equal(kind(undefined), "failed");
    assert.equal(sentence({ message: "the pool is started" }), "The pool is started");
    assert.equal(sentence({ problem: "internal-error" }), "Internal-error");
});

test("why there is no daemon is what systemd says of its unit", () => {
    assert.equal(whyGone({ load: "not-found", active: "inactive" }), "absent");
    assert.equal(whyGone({ load: "loaded", active: "failed" }), "failed");
    assert.equal(whyGone({ load: "loaded", active: "inactive" }), "stopped");
    assert.equal(whyGone(null), "absent");
    assert.equal(whySilent({ load: "not-found", active: "inactive" }), "absent");
    assert.equal(whySilent({ load: "loaded", active: "failed" }), "failed");
    assert.equal(whySilent({ load: "loaded", active: "inactive" }), "stopped");
    for (const active of ["active", "activating", "unknown"])
        assert.equal(whySilent({ load: "loaded", active }), "silent");
    assert.deepEqual(["stopped", "failed", "absent", "silent", "runs", undefined].map(canStart), [true, true, false, false, false, false]);
});

const words = { _: text => text, format: (text, ...args) => text.replace(/\$(\d)/g, (_, n) => args[n]) };
const MOVE = ["web1", "u", "vms", ["d"], "host1", "host2", 5];

test("each signal that wants a human says what to do", () => {
    const told = {
        SpaceLow: ["vms", 1], SpaceExhausted: ["vms", "d", 1, 0], Warning: ["web1", "x"], MoveFailed: [MOVE, "why"],
        RunsTwice: [MOVE, "why"], Damage: ["vms", "x"],
    };
    for (const [member, args] of Object.entries(told))
        assert.ok(event(member, args, words).todo, member);
    assert.equal(event("MoveFinished", [MOVE], words).text, "VM web1 runs on host2, and its volumes here are gone");
    assert.equal(event("MoveFinished", [MOVE], words).todo, undefined);
    assert.equal(event("VolumeGrown", [], words), null);
    for (const args of [[MOVE, "no room"], [MOVE, "refused", "no room"]])
        assert.equal(event("MoveFailed", args, words).text, "VM web1 was not moved to host2: no room");
    const nowhere = [["", "", "vms", [], "host1", "", 0], "all peers are full"];
    assert.equal(event("MoveFailed", nowhere, words).text, "No VM could leave pool vms: all peers are full");
});

test("the newest events are kept", () => {
    let events = [];
    for (let n = 0; n < 300; n += 1)
        events = addEvent(events, n);
    assert.deepEqual([events.length, events[0]], [200, 299]);
});

const typed = properties => Object.fromEntries(Object.entries(properties).map(([name, v]) => [name, { t: "x", v }]));
const POOL = { "org.virtnotify1.Pool": typed({ Name: "vms", Active: true, Capacity: 100, Available: 60, LowMark: 10 }) };

test("objects come, change and go", () => {
    let picture = store.replaced(store.EMPTY, { "/p": POOL, "/x": { "org.freedesktop.DBus.Peer": {} } }, 1000);
    assert.equal(picture.objects.size, 1);
    assert.equal(store.state(picture, store.poolNamed(picture, "vms")), "fine");
    picture = store.changed(picture, "/p", typed({ Available: 5 }), 3000);
    assert.equal(store.state(picture, store.poolNamed(picture, "vms")), "low");
    const damaged = store.changed(picture, "/p", typed({ Damaged: true }), 3000);
    assert.equal(store.state(damaged, store.poolNamed(damaged, "vms")), "damaged");
    assert.deepEqual(picture.fills.get("/p"), [{ time: 1000, value: 40 }, { time: 3000, value: 95 }]);
    const before = picture;
    picture = store.added(picture, "/v", { "org.virtnotify1.Volume": typed({ Name: "d", Pool: "/p", State: "out-of-space" }) }, 4000);
    assert.equal(before.objects.size, 1);
    assert.equal(store.state(picture, store.poolNamed(picture, "vms")), "full");
    assert.equal(store.changed(picture, "/unknown", typed({ A: 1 }), 5000), picture);
    picture = store.removed(picture, "/v");
    assert.equal(store.volumesOf(picture, store.poolNamed(picture, "vms")).length, 0);
});

test("a daemon that comes back has the curve go on", () => {
    let picture = store.replaced(store.EMPTY, { "/p": POOL }, 1000);
    picture = store.replaced(picture, { "/p": POOL }, 9000);
    assert.deepEqual(picture.fills.get("/p").map(({ time }) => time), [1000, 9000]);
});

test("what the daemon noted comes before what the page saw", () => {
    let picture = store.replaced(store.EMPTY, { "/p": POOL }, 120_000);
    assert.deepEqual(store.fill(picture, "/p").map(({ time }) => time), [120_000]);
    picture = store.recalled(picture, "/p", [[60, 100, 90], [110, 100, 80], [120, 100, 70]]);
    assert.deepEqual(store.fill(picture, "/p"), [{ time: 60_000, value: 10 }, { time: 110_000, value: 20 }, { time: 120_000, value: 40 }]);
    assert.equal(store.fill(picture, "/p", 100_000).length, 2);
    assert.deepEqual(store.fill(picture, "/other"), []);
    assert.equal(store.removed(picture, "/p").past.size, 0);
});

test("changes within a second are one point", () => {
    let picture = store.replaced(store.EMPTY, { "/p": POOL }, 1000);
    for (let n = 1; n <= 20; n += 1)
        picture = store.changed(picture, "/p", typed({ Available: 60 - n }), 1000 + 100 * n);
    const points = picture.fills.get("/p");
    assert.ok(points.length <= 4, JSON.stringify(points));
    assert.equal(points[points.length - 1].value, 60);
});

test("an older daemon's objects lack properties, and nothing fails", () => {
    const old = { "org.virtnotify1.Volume": typed({ Name: "d", Pool: "/p" }) };
    const picture = store.replaced(store.EMPTY, { "/p": POOL, "/v": old }, 0);
    const volumes = store.volumesOf(picture, store.poolNamed(picture, "vms"));
    assert.equal(rows(volumes).length, 1);
    assert.deepEqual(largestHolders(volumes, 3), []);
    assert.deepEqual(store.work({ kind: "Job" }), { done: 0, total: 0 });
});

test("what volumes grow by has a speed from the first growth on", () => {
    let picture = store.grown(store.EMPTY, "p", "v", 100, 5000);
    assert.equal(samples.speed(picture.growths.get("p/v"), 60, 5000), 100);
    picture = store.grown(picture, "p", "v", 300, 7000);
    assert.equal(Math.round(samples.speed(picture.growths.get("p/v"), 60, 7000)), 133);
});

test("a plan is read by its fields", () => {
    const plan = readPlan(["web1", "u", "its metadata says so", "", 5, 6, [["host2", false, 0, "no room"]]]);
    assert.equal(plan.stays, "Its metadata says so");
    assert.deepEqual(plan.candidates, [{ name: "host2", isPossible: false, free: 0, why: "no room" }]);
});

test("volumes have the VMs that are there", () => {
    const vm = { "org.virtnotify1.Vm": typed({ Name: "web1", Pinned: true }) };
    const picture = store.replaced(store.EMPTY, { "/vm": vm }, 0);
    const names = volume => store.vmsOf(picture, volume).map(({ Name }) => Name);
    assert.deepEqual(names({ Vms: ["/vm", "/gone"] }), ["web1"]);
    assert.deepEqual(names({}), [], "an older daemon tells none");
});

test("what the daemon remembers reads as it did when it was told", () => {
    const words = { _: text => text, format: (text, ...args) => text.replace(/\$(\d)/g, (_all, n) => args[n]) };
    const details = typed({ domain: "web1", pool: "vms", from: "host1", to: "host2", kind: "stayed", reason: "no room", volumes: [], uuid: "u", allocation: 1 });
    const rows = [
        [10, "info", "PoolStarted", typed({ pool: "vms" })],
        [20, "warning", "MoveFailed", details],
        [30, "warning", "Later", {}],
    ];
    const lines = remembered(rows, words);
    assert.deepEqual(lines.map(({ time, text }) => [time, text]), [
        [20_000, "VM web1 was not moved to host2: no room"],
        [10_000, "Pool vms was started"],
    ]);
});
