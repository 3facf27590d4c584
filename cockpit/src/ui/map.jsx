// SPDX-License-Identifier: LGPL-2.1-or-later
// Where a volume's chunks lie: drawn, and again beside it after it was defragmented.

import { Alert, Breadcrumb, BreadcrumbItem, Button, Card, CardBody, CardTitle, PageSection, Spinner, Title } from "@patternfly/react-core";
import { useCallback, useEffect, useRef, useState } from "react";

import { _, format, ngettext } from "../cockpit.js";
import { bars, parse, summary, volumeMap } from "../model/map.js";
import { moment, size } from "../model/sizes.js";
import * as store from "../model/store.js";
import { Activity } from "./activity.jsx";
import { ActionButton, PageLink, explain, usePage } from "./context.jsx";

const WIDTH = 1000;

/** The map, and the one from before the last job that moved chunks. */
function useMap(pool, name) {
    const { daemon } = usePage();
    const [maps, setMaps] = useState({ now: null, before: null, error: null, isLoading: true });
    const load = useCallback(async keep => {
        setMaps(old => ({ ...old, isLoading: true }));
        try {
            const [text] = await daemon.manager("Dump", [pool.Name, "metadata"], "ss");
            const map = volumeMap(parse(text), name);
            if (!map)
                throw new Error(format(_("the pool has no volume '$0'"), name));
            const now = { map, time: Date.now() };
            setMaps(old => ({ now, before: keep && old.now ? old.now : old.before, error: null, isLoading: false }));
        } catch (error) {
            setMaps(old => ({ ...old, error, isLoading: false }));
        }
    }, [daemon, pool.Name, name]);
    useEffect(() => { load(false); }, [load]);
    return [maps, load];
}

export function MapPage({ pool, name }) {
    const { daemon, state: { picture }, act } = usePage();
    const [{ now, before, error, isLoading }, load] = useMap(pool, name);
    const volume = store.volumesOf(picture, pool).find(({ Name }) => Name === name);
    const job = store.all(picture, "Job").find(each => each.Pool === pool.path);
    useWhenDone(job, () => load(true));
    const defragment = () => act(_("It was not defragmented"), () => daemon.call(volume.path, "Volume", "Defragment"));
    return (
        <>
            <PageSection className="head">
                <Breadcrumb className="head-path">
                    <BreadcrumbItem><PageLink to={[]}>{_("Thin storage")}</PageLink></BreadcrumbItem>
                    <BreadcrumbItem><PageLink to={["pool", pool.Name]}>{pool.Name}</PageLink></BreadcrumbItem>
                    <BreadcrumbItem isActive>{name}</BreadcrumbItem>
                </Breadcrumb>
                <Title headingLevel="h1">{format(_("Where $0 lies"), name)}</Title>
                <span className="head-actions">
                    {volume && daemon.has("Volume", "Defragment") &&
                        <ActionButton onClick={defragment} isAriaDisabled={job?.State === "running"} id="defragment">{_("Defragment")}</ActionButton>}
                    <Button variant="secondary" onClick={() => load(false)} isLoading={isLoading} isDisabled={isLoading}>{_("Look again")}</Button>
                </span>
            </PageSection>
            <PageSection isFilled>
                {error && <Alert isInline variant="danger" title={_("The map cannot be shown")}>{explain(error)}</Alert>}
                {!now && !error && <Spinner aria-label={_("Reading the map")} />}
                {before && <Drawn title={format(_("Before, at $0"), moment(before.time))} map={before.map} id="map-before" />}
                {now && <Drawn title={before ? format(_("Afterwards, at $0"), moment(now.time)) : format(_("At $0"), moment(now.time))} map={now.map} id="map-now" />}
                {job && <Card><CardTitle component="h2">{_("Moves and jobs")}</CardTitle><CardBody><Activity pool={pool} /></CardBody></Card>}
            </PageSection>
        </>
    );
}

/** Does something once when a job that was seen to run runs no more. */
function useWhenDone(job, act) {
    const seen = useRef(null);
    const state = job?.State;
    useEffect(() => {
        if (seen.current && state !== "running")
            act();
        seen.current = state === "running";
    });
}

function Drawn({ title, map, id }) {
    const facts = summary(map);
    const said = [
        format(_("$0 of $1"), size(facts.bytes), size(map.capacity)),
        format(ngettext("$0 run", "$0 runs", facts.runs), facts.runs),
        format(_("$0 a chunk"), size(map.chunkBytes)),
    ];
    if (facts.runs > 1)
        said.push(format(_("a run has $0 on average; $1% of sequential reads go on in one"), size(facts.mean), Math.floor(facts.sequential)));
    return (
        <Card className="map" id={id} data-runs={facts.runs}>
            <CardTitle component="h2">{title}</CardTitle>
            <CardBody>
                <p>{said.join(" · ")}</p>
                {bars(map).map(bar => <Bar key={bar.id} bar={bar} chunkBytes={map.chunkBytes} />)}
            </CardBody>
        </Card>
    );
}

function Bar({ bar, chunkBytes }) {
    const name = bar.id === "volume" ? _("The volume from its beginning to its end")
        : format(_("Data volume $0, as far as it reaches: $1"), bar.id.slice(2), size(bar.total * chunkBytes));
    const x = chunk => (chunk / bar.total) * WIDTH;
    return (
        <figure>
            <figcaption>{name}</figcaption>
            <svg viewBox={`0 0 ${WIDTH} 36`} preserveAspectRatio="none" role="img" aria-label={name}>
                <rect className="hole" width={WIDTH} height="36" />
                {bar.parts.map(({ first, count, number }) =>
                    <rect key={first} x={x(first)} width={x(count)} height="36" fill={`hsl(${(number * 137) % 360} 60% 48%)`} />)}
            </svg>
        </figure>
    );
}
