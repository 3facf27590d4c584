// SPDX-License-Identifier: LGPL-2.1-or-later
// The manager's signals as lines of a list: how bad, what happened, and what to do about it.
//
// What to do is said in the words of docs/operator/operating.md.

import { size } from "./sizes.js";

/** As many as are kept. */
const MOST = 200;

/**
 * The line of a signal; null for signals of which there is nothing to say. `say` is the translation:
 * `_`, which takes a sentence, and `format`, which puts words into `$0`, `$1`, ...
 */
export function describe(member, args, { _, format }) {
    const what = WHAT[member];
    return what ? { member, ...what({ args, _, format }) } : null;
}

const moved = ([move]) => ({ vm: move[0], pool: move[2], from: move[4], to: move[5] });

const WHAT = {
    PoolStarted: ({ args, _, format }) => ({
        severity: "info", text: format(_("Pool $0 was started"), args[0]), pool: args[0],
    }),
    PoolStopped: ({ args, _, format }) => ({
        severity: "info", text: format(_("Pool $0 was stopped"), args[0]), pool: args[0],
    }),
    VolumeCreated: ({ args, _, format }) => ({
        severity: "info", text: format(_("Volume $0/$1 of $2 was created"), args[0], args[1], size(args[2])),
        pool: args[0],
    }),
    VolumeDeleted: ({ args, _, format }) => ({
        severity: "info", text: format(_("Volume $0/$1 was deleted"), args[0], args[1]), pool: args[0],
    }),
    SpaceLow: ({ args, _, format }) => ({
        severity: "warning", text: format(_("Pool $0 has only $1 left, less than its low mark"), args[0], size(args[1])),
        todo: _("Add space, or let VMs move, today."), pool: args[0],
    }),
    SpaceExhausted: ({ args, _, format }) => ({
        severity: "danger",
        text: format(_("Pool $0 is full: $1 asked for $2, and $3 are left"), args[0], args[1], size(args[2]), size(args[3])),
        todo: _("Its VM pauses and loses nothing. Unless it moves by itself: add a disk to the volume group, delete what nobody needs, or move a VM away. It goes on by itself then."),
        pool: args[0],
    }),
    SpaceAvailable: ({ args, _, format }) => ({
        severity: "success", text: format(_("Pool $0 has room again: $1; paused VMs go on"), args[0], size(args[1])),
        pool: args[0],
    }),
    Resumed: ({ args, _, format }) => ({
        severity: "success", text: format(_("VM $0 runs again; it was paused for want of space"), args[0]),
    }),
    Warning: ({ args, _, format }) => ({
        severity: "warning", text: format(_("VM $0: $1"), args[0], args[1]),
        todo: _("Give the disk cache='none'."),
    }),
    MoveStarted: ({ args, _, format }) => {
        const { vm, pool, from, to } = moved(args);
        return { severity: "info", text: format(_("VM $0 moves from $1 to $2"), vm, from, to), pool };
    },
    MoveFinished: ({ args, _, format }) => {
        const { vm, pool, to } = moved(args);
        return { severity: "success", text: format(_("VM $0 runs on $1, and its volumes here are gone"), vm, to), pool };
    },
    MoveFailed: ({ args, _, format }) => {
        const { vm, pool, to } = moved(args);
        // Older daemons tell no kind before it.
        const reason = args[args.length - 1];
        if (args.length > 2 && args[1] === "settled")
            return { severity: "info", text: format(_("The move of VM $0 to $1 was ended: $2"), vm, to, reason), pool };
        const text = !vm ? format(_("No VM could leave pool $0: $1"), pool, reason)
            : !to ? format(_("No host was found for VM $0: $1"), vm, reason)
                : format(_("VM $0 was not moved to $1: $2"), vm, to, reason);
        return { severity: "warning", text, todo: _("The VM stays where it was, and is tried again. Do what the sentence says."), pool };
    },
    RunsTwice: ({ args, _, format }) => {
        const { vm, pool } = moved(args);
        return {
            severity: "danger", text: format(_("VM $0 was seen to run on two hosts at once: $1"), vm, args[1]),
            todo: _("At once, before anything else: see \"On two hosts\" in docs/operator/moving.md."), pool,
        };
    },
    PeerFailed: ({ args, _, format }) => ({
        severity: "warning", text: format(_("No VM can move to $0: $1"), args[0], args[1]),
        todo: _("Look whether it runs, whether root reaches it without a password, and whether its pool is started."),
    }),
    PeerReady: ({ args, _, format }) => ({ severity: "success", text: format(_("VMs can move to $0 again"), args[0]) }),
    Damage: ({ args, _, format }) => ({
        severity: "danger", text: format(_("Pool $0 is damaged: $1"), args[0], args[1]),
        todo: _("Do not reboot, do not stop VMs. See docs/operator/repair.md."), pool: args[0],
    }),
};

/** The names of the parts of a move. */
const MOVE = ["domain", "uuid", "pool", "volumes", "from", "to", "allocation"];

/** The arguments of signals by name, in their order; `move` is one of several parts. */
const ARGUMENTS = {
    PoolStarted: ["pool"],
    PoolStopped: ["pool"],
    VolumeCreated: ["pool", "volume", "capacity"],
    VolumeDeleted: ["pool", "volume"],
    SpaceLow: ["pool", "available"],
    SpaceExhausted: ["pool", "volume", "wanted", "available"],
    SpaceAvailable: ["pool", "available"],
    Resumed: ["domain"],
    Warning: ["domain", "what"],
    MoveStarted: ["move"],
    MoveFinished: ["move"],
    MoveFailed: ["move", "kind", "reason"],
    RunsTwice: ["move", "reason"],
    PeerFailed: ["peer", "reason"],
    PeerReady: ["peer"],
    Damage: ["pool", "what"],
};

/** The lines of what the daemon remembers, the newest first: rows of time, severity, signal and details. */
export function remembered(rows, say) {
    const line = ([time, , member, details], n) => {
        const value = name => details[name]?.v;
        const args = (ARGUMENTS[member] ?? []).map(name => name === "move" ? MOVE.map(value) : value(name));
        const event = describe(member, args, say);
        return event && { ...event, time: time * 1000, id: `${time}-${n}` };
    };
    return rows.map(line).filter(Boolean).reverse().slice(0, MOST);
}

/** Adds one, the newest first. */
export function add(events, event) {
    return [event, ...events].slice(0, MOST);
}
