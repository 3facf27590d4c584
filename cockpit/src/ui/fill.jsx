// SPDX-License-Identifier: LGPL-2.1-or-later
// How full a pool is: a bar with the low mark, and a curve over time.

import { ToggleGroup, ToggleGroupItem } from "@patternfly/react-core";
import { useState } from "react";

import { _, format } from "../cockpit.js";
import { curve } from "../model/samples.js";
import { clock, percent, size } from "../model/sizes.js";
import * as store from "../model/store.js";
import { usePage } from "./context.jsx";

const WIDTH = 600;
const HEIGHT = 90;

/** The bar. What lies right of the mark is what the low mark keeps. */
export function FillBar({ pool, state }) {
    const used = pool.Capacity - pool.Available;
    const part = percent(used, pool.Capacity);
    const mark = pool.LowMark > 0 ? 100 - percent(pool.LowMark, pool.Capacity) : null;
    const text = format(_("$0 of $1 used, $2 left"), size(used), size(pool.Capacity), size(pool.Available));
    return (
        <div className="fill">
            <div className={`fill-bar is-${state}`} role="meter" aria-label={format(_("Use of pool $0"), pool.Name)}
                aria-valuemin="0" aria-valuemax="100" aria-valuenow={Math.round(part)} aria-valuetext={text}>
                <div className="fill-used" style={{ width: `${part}%` }} />
                {mark !== null && <div className="fill-mark" style={{ left: `${mark}%` }} />}
            </div>
            <div className="fill-text">
                <span>{text}</span>
                {mark !== null && <span className="quiet">{format(_("low mark at $0 left"), size(pool.LowMark))}</span>}
            </div>
        </div>
    );
}

const DAY = 24 * 3600 * 1000;
/** Nothing was noted for so long: the daemon did not run, or the pool was not started. */
const GAP = 20 * 60 * 1000;

/** The curve of the last day, or the last week; with an older daemon, since the page was opened. */
export function FillCurve({ pool, state }) {
    const { state: { picture } } = usePage();
    const [days, setDays] = useState(1);
    const points = store.fill(picture, pool.path, Date.now() - days * DAY);
    const drawn = curve(points, pool.Capacity, WIDTH, HEIGHT, GAP);
    if (!drawn)
        return <p className="quiet curve-empty">{_("The curve begins now.")}</p>;
    const mark = pool.LowMark > 0 ? HEIGHT * percent(pool.LowMark, pool.Capacity) / 100 : null;
    const began = clock(points[0].time);
    const label = format(_("Use of pool $0 since $1, from $2 to $3"), pool.Name, began,
                         size(points[0].value), size(points[points.length - 1].value));
    return (
        <figure className="curve">
            <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label={label}>
                <path className={`curve-area is-${state}`} d={drawn.area} />
                <path className={`curve-line is-${state}`} d={drawn.line} />
                {mark !== null && <line className="curve-mark" x1="0" x2={WIDTH} y1={mark} y2={mark} />}
            </svg>
            <figcaption className="quiet">
                <span>{format(_("since $0"), began)}</span>
                {picture.past.get(pool.path)?.length > 0 && <Span pool={pool} days={days} setDays={setDays} />}
                <span>{_("now")}</span>
            </figcaption>
        </figure>
    );
}

function Span({ pool, days, setDays }) {
    const item = (count, text) =>
        <ToggleGroupItem text={text} buttonId={`curve-${pool.Name}-${count}`} isSelected={days === count} onChange={() => setDays(count)} />;
    return (
        <ToggleGroup isCompact aria-label={format(_("How far the curve of $0 goes back"), pool.Name)}>
            {item(1, _("Day"))}
            {item(7, _("Week"))}
        </ToggleGroup>
    );
}
