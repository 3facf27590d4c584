// SPDX-License-Identifier: LGPL-2.1-or-later
// Values over time: what was seen since the page was opened, and what the daemon noted before.

/** As many points as a curve can show. */
const MOST = 720;

/** Adds a point; of too many, each second one of the older half goes. */
export function add(points, point, most = MOST) {
    const all = [...points, point];
    if (all.length <= most)
        return all;
    const half = Math.floor(all.length / 2);
    return all.filter((_, at) => at >= half || at % 2 === 0);
}

/** How fast a value rises, by the second, over the points of the last `span` seconds; null for less than two. */
export function speed(points, span, now) {
    const recent = points.filter(({ time }) => time >= now - span * 1000);
    if (recent.length < 2)
        return null;
    const [first, last] = [recent[0], recent[recent.length - 1]];
    const seconds = (last.time - first.time) / 1000;
    return seconds > 0 ? Math.max(0, last.value - first.value) / seconds : null;
}

/** Seconds that the rest takes at this speed; null when nobody can say. */
export function timeLeft(done, total, perSecond) {
    if (!(perSecond > 0) || !(total > 0))
        return null;
    return Math.max(0, total - done) / perSecond;
}

/**
 * The points of a curve in a box of a given size: `line` and `area` are paths of SVG. Time goes from the first
 * point to the last, values from 0 to `top`. Where nothing was seen for longer than `gap` milliseconds there is none.
 */
export function curve(points, top, width, height, gap = Infinity) {
    if (points.length < 2 || !(top > 0))
        return null;
    const begin = points[0].time;
    const span = Math.max(1, points[points.length - 1].time - begin);
    const x = ({ time }) => round(((time - begin) / span) * width);
    const y = ({ value }) => round(height - Math.min(1, value / top) * height);
    const parts = unbroken(points, gap).map(part => ({
        line: part.map((point, at) => `${at ? "L" : "M"}${x(point)} ${y(point)}`).join(""),
        foot: `L${x(part[part.length - 1])} ${height}L${x(part[0])} ${height}Z`,
    }));
    return { line: parts.map(({ line }) => line).join(""), area: parts.map(({ line, foot }) => line + foot).join("") };
}

function unbroken(points, gap) {
    const parts = [[points[0]]];
    for (let at = 1; at < points.length; at += 1) {
        if (points[at].time - points[at - 1].time > gap)
            parts.push([]);
        parts[parts.length - 1].push(points[at]);
    }
    return parts;
}

function round(value) {
    return Math.round(value * 100) / 100;
}
