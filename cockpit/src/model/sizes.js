// SPDX-License-Identifier: LGPL-2.1-or-later
// Numbers as people read them.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

let language = "en";

/** The language whose decimal sign and clock are used. */
export function setLanguage(name) {
    language = name.replace("_", "-");
}

/** Bytes with three digits that count: `12.3 GiB`. */
export function size(bytes) {
    let value = Number(bytes) || 0;
    let unit = 0;
    while (value >= 1024 && unit < UNITS.length - 1) {
        value /= 1024;
        unit += 1;
    }
    const digits = unit === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
    const text = value.toLocaleString(language, { maximumFractionDigits: digits });
    return `${text}\u00a0${UNITS[unit]}`;
}

/** The bytes that a text such as `100 GiB` or `1.5T` names, whole ones; null when it names none. */
export function parseSize(text) {
    const [, number, unit] = text.trim().match(/^(\d+(?:[.,]\d+)?)\s*([kmgtp]?)(?:i?b)?$/i) ?? [];
    if (number === undefined)
        return null;
    const power = unit === "" ? 0 : "kmgtp".indexOf(unit.toLowerCase()) + 1;
    const bytes = Math.round(Number(number.replace(",", ".")) * 1024 ** power);
    return Number.isSafeInteger(bytes) ? bytes : null;
}

/** Bytes a second. */
export function rate(bytes) {
    return `${size(bytes)}/s`;
}

/** A part of a whole in percent, between 0 and 100. */
export function percent(part, whole) {
    if (!(whole > 0))
        return 0;
    return Math.min(100, Math.max(0, (part / whole) * 100));
}

/** Seconds in the two largest units that they have: `2 d 3 h`, `5 min`, `12 s`. */
export function duration(seconds) {
    const whole = Math.max(0, Math.round(seconds));
    const parts = [
        ["d", Math.floor(whole / 86400)],
        ["h", Math.floor((whole % 86400) / 3600)],
        ["min", Math.floor((whole % 3600) / 60)],
        ["s", whole % 60],
    ];
    const first = parts.findIndex(([, value]) => value > 0);
    if (first < 0)
        return "0\u00a0s";
    const shown = parts.slice(first, first + 2).filter(([, value]) => value > 0);
    return shown.map(([unit, value]) => `${value}\u00a0${unit}`).join(" ");
}

/** Seconds until a pool is full; null when it does not grow, or nobody knows. */
export function timeToFull(seconds) {
    // With an older daemon the largest number of 64 bits means never, and comes rounded.
    return typeof seconds === "number" && seconds > 0 && seconds < Number.MAX_SAFE_INTEGER ? seconds : null;
}

/** The time of day, with the date when that is another one. */
export function clock(time, now = new Date()) {
    const date = new Date(time);
    const isToday = date.toDateString() === now.toDateString();
    const day = isToday ? {} : { year: "numeric", month: "short", day: "numeric" };
    return date.toLocaleString(language, { ...day, hour: "2-digit", minute: "2-digit", hour12: false });
}

/** The time of day with seconds. */
export function moment(time) {
    return new Date(time).toLocaleTimeString(language, { hour12: false });
}
