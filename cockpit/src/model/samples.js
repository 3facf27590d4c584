// SPDX-License-Identifier: LGPL-2.1-or-later
// Values over time: what was seen since the page was opened.

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
 * point to the last, values from 0 to `top`.
 */
export function curve(points, top, width, height) {
    if (points.length < 2 || !(top > 0))
        return null;
    const begin = points[0].time;
    const span = Math.max(1, points[points.length - 1].time - begin);
    const x = time => round(((time - begin) / span) * width);
    const y = value => round(height - Math.min(1, value / top) * height);
    const line = points.map(({ time, value }, at) => `${at ? "L" : "M"}${x(time)} ${y(value)}`).join("");
    return { line, area: `${line}L${round(width)} ${height}L0 ${height}Z` };
}

function round(value) {
    return Math.round(value * 100) / 100;
}
