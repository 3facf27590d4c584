// SPDX-License-Identifier: LGPL-2.1-or-later
// A pool's policy as a form has it: each setting as text, as the daemon takes it.

/** The settings that are sizes, or none. */
export const LIMITS = ["largest-volume", "growth-least", "growth-most", "bandwidth"];
/** The settings that are words. */
export const WORDS = { "at-low-mark": ["nothing", "warn", "migrate"], "when-full": ["migrate", "pause", "error"] };
/** The settings that are yes or no. */
export const FLAGS = ["passdown", "movable"];

const UNITS = [["TiB", 2 ** 40], ["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]];

/** A size in the largest unit of which it is a multiple: nothing is rounded. */
export function exact(bytes) {
    const [unit, factor] = UNITS.find(([, each]) => bytes >= each && bytes % each === 0) ?? ["B", 1];
    return `${bytes / factor} ${unit}`;
}

/** The form of what the daemon tells; a limit that there is not is empty. */
export function form(policy) {
    const text = name => {
        const value = policy?.[name]?.v;
        if (value === undefined)
            return "";
        if (typeof value === "boolean")
            return value ? "yes" : "no";
        return policy[name].t === "t" ? exact(value) : String(value);
    };
    const names = ["low-mark", ...Object.keys(WORDS), "overcommit", ...LIMITS, "window", "daily", ...FLAGS];
    return Object.fromEntries(names.map(name => [name, text(name)]));
}

/** What is to be set so that one form becomes the other. */
export function changes(before, after) {
    const other = Object.keys(after).filter(name => after[name].trim() !== before[name]);
    return Object.fromEntries(other.map(name => [name, { t: "s", v: after[name].trim() || "none" }]));
}
