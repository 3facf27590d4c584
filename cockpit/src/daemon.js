// SPDX-License-Identifier: LGPL-2.1-or-later
// virtnotify-control on D-Bus: one picture of its objects, kept up to date, and its methods.

import * as events from "./model/events.js";
import { canStart, kind, whyGone, whySilent } from "./model/problems.js";
import * as store from "./model/store.js";

const NAME = "org.virtnotify1";
const ROOT = "/org/virtnotify1";
const MANAGER = `${NAME}.Manager`;
const PROPERTIES = "org.freedesktop.DBus.Properties";
const OBJECTS = "org.freedesktop.DBus.ObjectManager";
const SYSTEMD = "org.freedesktop.systemd1";
/** What is on the bus. */
const UNIT = "virtnotify-control.service";
/** What serves the volumes. */
const STORAGE_UNIT = "virtnotifyd.service";

/** How long until a daemon that is gone is looked for again, in milliseconds. */
const RETRY = 3000;
/** How often what is not told by itself (growth, time to full) is asked for. */
const ASK = 5000;
/** Views are drawn at most so often. */
const DRAW = 250;
/** So far back the daemon is asked how full pools were, and what happened, in seconds. */
const RECALL = 7 * 24 * 3600;
/** Signals after which a move has a result. */
const ENDS = ["MoveFinished", "MoveFailed"];

export class Daemon {
    #cockpit;
    #client = null;
    #listeners = new Set();
    #drawing = null;
    #retrying = null;
    #round = 0;
    #storageRuns = undefined;

    /**
     * `phase` is `connecting`, `ready`, `gone` (with `why`), `denied` or `failed` (with `error`). `storage` is how virtnotifyd is,
     * without which volumes do not grow: `runs`, `stopped`, `failed`, `absent`, `silent`, or undefined where that is not told.
     */
    state = { phase: "connecting", picture: store.EMPTY, events: [], since: Date.now(), absent: new Set(), results: [] };

    constructor(cockpit) {
        this.#cockpit = cockpit;
        setInterval(() => this.#ask(), ASK);
    }

    subscribe = listener => {
        this.#listeners.add(listener);
        return () => this.#listeners.delete(listener);
    };

    snapshot = () => this.state;

    /** Connects, or connects again: after the user's rights have changed. */
    open() {
        clearTimeout(this.#retrying);
        // First, so that the old connection's end is not taken for the daemon's.
        this.#round += 1;
        const round = this.#round;
        this.#client?.close();
        const client = this.#cockpit.dbus(NAME, { bus: "system", superuser: "try" });
        this.#client = client;
        const current = handler => (...args) => round === this.#round && handler(...args);
        client.addEventListener("close", current((_event, options) => this.#lost(options)));
        let known = null;
        client.addEventListener("owner", current((_event, owner) => {
            if (!owner)
                this.#lost({ problem: "not-found" });
            else if (known && known !== owner)
                this.#look(round);
            known = owner;
        }));
        client.subscribe({ path_namespace: ROOT }, current((path, iface, member, args) => this.#heard(path, iface, member, args)));
        this.#look(round);
    }

    /** Calls a method; `type` is its signature, so that nothing need be introspected. An error has a `name` and a `message`. */
    async call(path, iface, method, args = [], type = "") {
        try {
            return await this.#client.call(path, `${NAME}.${iface}`, method, args, { flags: "i", type });
        } catch (error) {
            if (kind(error) === "unknown")
                this.#set({ absent: new Set([...this.state.absent, `${iface}.${method}`]) });
            throw error;
        }
    }

    /** Calls a method of the manager. */
    manager(method, args = [], type = "") {
        return this.call(ROOT, "Manager", method, args, type);
    }

    /** Whether a method is there, as far as known: one that was missed once is not offered again. */
    has(iface, method) {
        return !this.state.absent.has(`${iface}.${method}`);
    }

    /** Has systemd start virtnotify-control, and virtnotifyd if that does not run. */
    async start() {
        if (canStart(this.state.storage))
            await this.#startUnit(STORAGE_UNIT);
        await this.#startUnit(UNIT);
        this.open();
    }

    /** Has systemd start virtnotifyd. That it runs is told then. */
    startStorage() {
        return this.#startUnit(STORAGE_UNIT);
    }

    async #startUnit(unit) {
        const systemd = this.#cockpit.dbus(SYSTEMD, { bus: "system", superuser: "try" });
        try {
            await systemd.call("/org/freedesktop/systemd1", `${SYSTEMD}.Manager`, "StartUnit", [unit, "replace"], { type: "ss" });
        } finally {
            systemd.close();
        }
    }

    async #look(round) {
        try {
            const [managed] = await this.#client.call(ROOT, OBJECTS, "GetManagedObjects", [], { type: "" });
            if (round !== this.#round)
                return;
            const picture = store.replaced(this.state.picture, managed, Date.now());
            this.#set({ phase: "ready", picture, error: null, absent: new Set(), version: undefined, drained: undefined, storage: undefined });
            this.#host(round);
            this.#activePools().forEach(({ path }) => this.#recall(round, path));
            this.#ask();
            this.#askEvents(round);
            this.#askResults(round);
        } catch (error) {
            if (round === this.#round)
                this.#lost(error);
        }
    }

    /** What is about the whole host. An older daemon lacks some of it. */
    async #host(round) {
        try {
            const [properties] = await this.#client.call(ROOT, PROPERTIES, "GetAll", [MANAGER], { type: "s" });
            if (round === this.#round)
                this.#tellHost(properties);
        } catch { /* The page shows the rest. */ }
    }

    #tellHost(properties) {
        const { Version: version, Drained: drained, StorageRuns: runs } = store.plain(properties);
        this.#set({ ...(version === undefined ? {} : { version }), ...(drained === undefined ? {} : { drained }) });
        if (runs !== undefined)
            this.#tellStorage(runs);
    }

    async #tellStorage(runs) {
        this.#storageRuns = runs;
        const { storage } = this.state;
        if (runs || storage === undefined || storage === "runs")
            this.#set({ storage: runs ? "runs" : "silent" });
        if (runs)
            return;
        const round = this.#round;
        const why = whySilent(await this.#unit(STORAGE_UNIT));
        if (round === this.#round && !this.#storageRuns)
            this.#set({ storage: why });
    }

    /** The daemon is gone, or says nothing sensible: it is looked for again, from the beginning. */
    async #lost(error) {
        const found = kind(error);
        this.#round += 1;
        const round = this.#round;
        this.#client.close();
        clearTimeout(this.#retrying);
        this.#retrying = setTimeout(() => this.open(), RETRY);
        const picture = { ...this.state.picture, objects: new Map(), progress: new Map() };
        if (found === "gone") {
            const [unit, storageUnit] = await Promise.all([this.#unit(UNIT), this.#unit(STORAGE_UNIT)]);
            if (round === this.#round)
                this.#set({ phase: "gone", why: whyGone(unit), storage: whySilent(storageUnit), error, picture });
        } else {
            this.#set({ phase: found === "denied" ? "denied" : "failed", error, picture });
        }
    }

    /** What systemd says of a unit, which is little where it cannot be asked. */
    async #unit(name) {
        const systemd = this.#cockpit.dbus(SYSTEMD, { bus: "system", superuser: "try" });
        const get = (path, property) => systemd.call(path, PROPERTIES, "Get", [`${SYSTEMD}.Unit`, property], { type: "ss" });
        try {
            const [path] = await systemd.call("/org/freedesktop/systemd1", `${SYSTEMD}.Manager`, "LoadUnit", [name], { type: "s" });
            const [[load], [active]] = await Promise.all([get(path, "LoadState"), get(path, "ActiveState")]);
            return { load: load.v, active: active.v };
        } catch {
            return { load: "loaded", active: "unknown" };
        } finally {
            systemd.close();
        }
    }

    #heard(path, iface, member, args) {
        const now = Date.now();
        const { picture } = this.state;
        if (iface === PROPERTIES && args[0] === MANAGER)
            this.#tellHost(args[1]);
        else if (iface === PROPERTIES)
            this.#set({ picture: store.changed(picture, path, args[1], now) });
        else if (iface === OBJECTS && member === "InterfacesAdded")
            this.#set({ picture: store.added(picture, args[0], args[1], now) });
        else if (iface === OBJECTS && member === "InterfacesRemoved")
            this.#set({ picture: store.removed(picture, args[0]) });
        else if (iface === MANAGER)
            this.#told(member, args, now);
    }

    #told(member, args, now) {
        if (member === "VolumeGrown")
            this.#set({ picture: store.grown(this.state.picture, args[0], args[1], args[2], now) });
        const event = events.describe(member, args, this.#say());
        if (ENDS.includes(member))
            this.#askResults(this.#round);
        if (event)
            this.#set({ events: events.add(this.state.events, { ...event, time: now, id: `${now}-${Math.random()}` }) });
    }

    /** Asks for what fades by itself and is not told. */
    #ask() {
        if (this.state.phase !== "ready")
            return;
        const round = this.#round;
        if (!["runs", undefined].includes(this.state.storage))
            this.#host(round);
        this.#activePools().forEach(({ path }) => {
            this.#askPool(round, path);
            if (!this.state.picture.past.has(path))
                this.#recall(round, path);
        });
    }

    #activePools() {
        return store.all(this.state.picture, "Pool").filter(({ Active }) => Active);
    }

    /** Asks how full a pool was before the page was opened. */
    async #recall(round, path) {
        if (!this.has("Pool", "History"))
            return;
        try {
            const [rows] = await this.call(path, "Pool", "History", [Math.floor(Date.now() / 1000) - RECALL], "t");
            if (round === this.#round)
                this.#set({ picture: store.recalled(this.state.picture, path, rows) });
        } catch { /* The curve begins now. */ }
    }

    async #askPool(round, path) {
        try {
            const [properties] = await this.#client.call(path, PROPERTIES, "GetAll", [`${NAME}.Pool`], { type: "s" });
            if (round === this.#round)
                this.#set({ picture: store.changed(this.state.picture, path, properties, Date.now()) });
        } catch { /* It is gone, or the connection is, which is told. */ }
    }

    #say() {
        const { gettext, format } = this.#cockpit;
        return { _: gettext, format };
    }

    /** What happened before the page was opened, or while the daemon was not reached. */
    async #askEvents(round) {
        try {
            const [since, rows] = await this.manager("Events", [Math.floor(Date.now() / 1000) - RECALL], "t");
            if (round === this.#round)
                this.#set({ events: events.remembered(rows, this.#say()), since: since * 1000 });
        } catch { /* Events begin now. */ }
    }

    /** How the last moves ended. */
    async #askResults(round) {
        if (!this.has("Manager", "Results"))
            return;
        try {
            const [rows] = await this.manager("Results");
            if (round === this.#round)
                this.#set({ results: rows });
        } catch { /* They are not shown. */ }
    }

    #set(change) {
        this.state = { ...this.state, ...change };
        this.#drawing ??= setTimeout(() => {
            this.#drawing = null;
            this.#listeners.forEach(listener => listener());
        }, DRAW);
    }
}
