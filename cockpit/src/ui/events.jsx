// SPDX-License-Identifier: LGPL-2.1-or-later
// What happened, as far as the daemon remembers, and what to do about it.

import { Label } from "@patternfly/react-core";

import { _, format } from "../cockpit.js";
import { clock, moment } from "../model/sizes.js";
import { usePage } from "./context.jsx";

const COLORS = { danger: "red", warning: "orange", success: "green", info: "blue" };
const NAMES = {
    danger: () => _("Critical"), warning: () => _("Warning"), success: () => _("Good"), info: () => _("Info"),
};
/** As many as are shown. */
const MOST = 30;

export function Events({ pool }) {
    const { state } = usePage();
    const shown = state.events.filter(event => !pool || event.pool === pool.Name).slice(0, MOST);
    if (shown.length === 0)
        return <p className="quiet">{format(_("Nothing happened since $0."), clock(state.since))}</p>;
    return (
        <>
            <ul className="events" id="events">
                {shown.map(event =>
                    <li key={event.id} data-event={event.member}>
                        <time dateTime={new Date(event.time).toISOString()} className="quiet">{moment(event.time)}</time>
                        <Label color={COLORS[event.severity]} isCompact>{NAMES[event.severity]()}</Label>
                        <div>
                            <div>{event.text}</div>
                            {event.todo && <div className="todo">{event.todo}</div>}
                        </div>
                    </li>)}
            </ul>
            <p className="quiet">{format(_("All since $0"), clock(state.since))}</p>
        </>
    );
}
