// SPDX-License-Identifier: LGPL-2.1-or-later
// Moves and jobs: how far they are, how fast, how long they still take.

import { Label, Progress } from "@patternfly/react-core";

import { _, format, ngettext } from "../cockpit.js";
import { speed, timeLeft } from "../model/samples.js";
import { duration, moment, percent, rate, size } from "../model/sizes.js";
import * as store from "../model/store.js";
import { ActionButton, usePage } from "./context.jsx";
import { Table } from "./table.jsx";

/** Speed is that of so many seconds. */
const SPAN = 30;

const TASKS = {
    defragment: () => _("Defragment"),
    reclaim: () => _("Reclaim"),
    "reclaim-zeroes": () => _("Reclaim zeroes"),
    evacuate: () => _("Evacuate"),
};

const PHASES = {
    preparing: () => _("is prepared"),
    copying: () => _("is copied"),
    unknown: () => _("both hosts are looked at"),
    resuming: () => _("is there, and is about to run"),
    arrived: () => _("runs there; what is left here goes"),
    stayed: () => _("stays here; what the move made there goes"),
    twice: () => _("ran on both hosts: a person has to end one"),
};

/** Moves and jobs of all pools, or of one. */
export function Activity({ pool }) {
    const { state: { picture } } = usePage();
    const isShown = object => !pool || object.Pool === pool.path;
    const moves = store.all(picture, "Move").filter(isShown);
    const jobs = store.all(picture, "Job").filter(isShown);
    if (moves.length + jobs.length === 0)
        return <p className="quiet">{_("No VM moves, and no job runs.")}</p>;
    const rows = [...moves.map(move => moveRow(move, picture)), ...jobs.map(job => jobRow(job, picture))];
    return <Table id="activity" label={_("Moves and jobs")} columns={[_("What"), _("Course"), _("Figures"), ""]} rows={rows} />;
}

const ENDS = {
    done: () => ({ color: "green", text: _("Moved") }),
    refused: () => ({ color: "orange", text: _("Refused") }),
    stayed: () => ({ color: "orange", text: _("Stayed") }),
    abandoned: () => ({ color: "red", text: _("Given up") }),
    settled: () => ({ color: "orange", text: _("Ended by a person") }),
};
/** As many results are shown. */
const RESULTS = 5;

/** How the last moves ended, the newest first. The last job of each pool is among the others. */
export function Results() {
    const { state: { results } } = usePage();
    const moves = results.filter(([, , task]) => task === "move").slice(-RESULTS).reverse();
    if (moves.length === 0)
        return null;
    return (
        <>
            <h3 className="further">{_("Last moves")}</h3>
            <ul className="events" id="results">
                {moves.map(([began, ended, , vm, to, state, reason]) => {
                    const { color, text } = (ENDS[state] ?? (() => ({ color: "grey", text: state })))();
                    return (
                        <li key={`${vm}-${began}-${ended}`} data-vm={vm}>
                            <time dateTime={new Date(ended * 1000).toISOString()} className="quiet">{moment(ended * 1000)}</time>
                            <Label color={color} isCompact>{text}</Label>
                            <div><div>{to ? `${vm} → ${to}` : vm}</div>{reason && <div className="quiet">{reason}</div>}</div>
                        </li>
                    );
                })}
            </ul>
        </>
    );
}

function moveRow(move, picture) {
    const title = format(_("VM $0 moves to $1"), move.Domain, move.To);
    return {
        key: move.path,
        cells: [
            <div key="t"><strong>{title}</strong>{PHASES[move.Phase] && <div className="quiet">{PHASES[move.Phase]()}</div>}</div>,
            <Course key="c" object={move} picture={picture} title={title} />,
            <div key="f">{format(_("$0 held here"), size(move.Allocation))}{move.Reason && <div className="quiet">{move.Reason}</div>}</div>,
            move.Cancelled ? <Label key="x" color="orange">{_("Being cancelled")}</Label>
                : <Cancel key="x" object={move} iface="Move" title={title} />,
        ],
    };
}

function jobRow(job, picture) {
    const title = jobTitle(job, picture);
    const isRunning = job.State === "running";
    return {
        key: job.path,
        cells: [
            <div key="t"><strong>{title}</strong><div className="quiet">{format(_("began at $0"), moment(job.Began * 1000))}</div></div>,
            isRunning ? <Course key="c" object={job} picture={picture} title={title} /> : <Ended key="c" job={job} />,
            figures(job),
            isRunning ? <Cancel key="x" object={job} iface="Job" title={title} /> : "",
        ],
    };
}

function jobTitle(job, picture) {
    const task = (TASKS[job.Task] ?? (() => job.Task))();
    const about = job.Device || picture.objects.get(job.Volume)?.Name || picture.objects.get(job.Pool)?.Name || "";
    return `${task} ${about}`.trim();
}

function figures(job) {
    const said = [];
    if (job.Runs > 0 && job.Task === "defragment")
        said.push(job.RunsBefore === job.Runs ? format(ngettext("$0 run", "$0 runs", job.Runs), job.Runs)
            : format(_("$0 runs became $1"), job.RunsBefore, job.Runs));
    if (job.Freed > 0)
        said.push(format(_("$0 free again"), size(job.Freed)));
    if (job.ToGroup > 0)
        said.push(format(_("$0 to the volume group"), size(job.ToGroup)));
    return said.join(", ");
}

function Ended({ job }) {
    switch (job.State) {
    case "done": return <Label color="green">{_("Done")}</Label>;
    case "cancelled": return <Label color="orange">{_("Cancelled; what it did stays")}</Label>;
    default: return <><Label color="red">{_("Failed")}</Label> {job.Error}</>;
    }
}

/** The bar, with speed and time left. */
function Course({ object, picture, title }) {
    const { done, total } = store.work(object);
    if (!(total > 0))
        return <span className="quiet">{_("It begins")}</span>;
    const fast = speed(picture.progress.get(object.path) ?? [], SPAN, Date.now());
    const left = timeLeft(done, total, fast);
    const said = [format(_("$0 of $1"), size(done), size(total))];
    if (fast)
        said.push(rate(fast));
    if (left !== null)
        said.push(format(_("$0 left"), duration(left)));
    return (
        <div className="course">
            <Progress value={percent(done, total)} aria-label={title} size="sm" />
            <span className="quiet">{said.join(" · ")}</span>
        </div>
    );
}

function Cancel({ object, iface, title }) {
    const { daemon, act } = usePage();
    const cancel = () => act(format(_("$0: it was not cancelled"), title), () => daemon.call(object.path, iface, "Cancel"));
    return <ActionButton variant="secondary" size="sm" onClick={cancel} aria-label={format(_("Cancel: $0"), title)}>{_("Cancel")}</ActionButton>;
}
