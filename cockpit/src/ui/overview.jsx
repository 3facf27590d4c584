// SPDX-License-Identifier: LGPL-2.1-or-later
// The host at a glance: its pools, what moves and runs, what happened.

import {
    Alert, Card, CardBody, CardHeader, CardTitle, DescriptionList, DescriptionListDescription, DescriptionListGroup,
    DescriptionListTerm, EmptyState, EmptyStateBody, Label, PageSection, Title,
} from "@patternfly/react-core";
import { CubesIcon } from "@patternfly/react-icons";
import { useState } from "react";

import { _, format } from "../cockpit.js";
import { duration, rate, size, timeToFull } from "../model/sizes.js";
import * as store from "../model/store.js";
import { largestHolders } from "../model/tree.js";
import { Activity, Results } from "./activity.jsx";
import { ActionButton, PageLink, usePage } from "./context.jsx";
import { Events } from "./events.jsx";
import { FillBar, FillCurve } from "./fill.jsx";
import { Drain, Drained, Peers, Waiting } from "./hosts.jsx";
import { MoveDialog } from "./move.jsx";

export function Overview() {
    const { state } = usePage();
    const [dialog, setDialog] = useState(null);
    const close = () => setDialog(null);
    const pools = store.pools(state.picture);
    return (
        <>
            <PageSection className="head">
                <Title headingLevel="h1">{_("Thin storage")}</Title>
                <span className="quiet">{state.version && format(_("virtnotify $0"), state.version)}</span>
                <span className="head-actions">
                    {state.drained !== undefined &&
                        <ActionButton variant="link" onClick={() => setDialog({ drain: true })} id="drain-button">
                            {state.drained ? _("Let VMs come again") : _("Empty this host")}
                        </ActionButton>}
                    <ActionButton variant="secondary" onClick={() => setDialog({ move: "" })} id="move">{_("Move a VM")}</ActionButton>
                </span>
            </PageSection>
            <Drained />
            <Trouble pools={pools} />
            <Waiting move={domain => setDialog({ move: domain })} />
            <PageSection>
                {pools.length === 0 ? <NoPools /> : <div className="cards">{pools.map(pool => <PoolCard key={pool.path} pool={pool} />)}</div>}
            </PageSection>
            <PageSection>
                <Card>
                    <CardTitle component="h2">{_("Moves and jobs")}</CardTitle>
                    <CardBody><Activity /><Results /></CardBody>
                </Card>
            </PageSection>
            <Peers />
            <PageSection isFilled>
                <Card>
                    <CardTitle component="h2">{_("Events")}</CardTitle>
                    <CardBody><Events /></CardBody>
                </Card>
            </PageSection>
            {dialog?.move !== undefined && <MoveDialog domain={dialog.move} close={close} />}
            {dialog?.drain && <Drain close={close} />}
        </>
    );
}

function NoPools() {
    return (
        <EmptyState titleText={_("There is no pool of type notify")} icon={CubesIcon} headingLevel="h2" id="no-pools">
            <EmptyStateBody>
                <p>{_("Define one with virsh; it appears here by itself:")}</p>
                <p><code>virsh pool-define-as vms notify --source-name vg0 --target /dev/notify/vms</code></p>
            </EmptyStateBody>
        </EmptyState>
    );
}

/** Pools that need a person, with what to do. */
function Trouble({ pools }) {
    const { state: { picture } } = usePage();
    const bad = pools.map(pool => ({ pool, how: store.state(picture, pool) })).filter(({ how }) => how in TROUBLES);
    if (bad.length === 0)
        return null;
    return (
        <PageSection>
            {bad.map(({ pool, how }) => {
                const { variant, title, todo } = TROUBLES[how](pool);
                return <Alert key={pool.path} isInline variant={variant} title={title}>{todo}</Alert>;
            })}
        </PageSection>
    );
}

const TROUBLES = {
    damaged: pool => ({
        variant: "danger",
        title: format(_("The metadata of pool $0 is damaged"), pool.Name),
        todo: <>{pool.Reason && <p>{pool.Reason}</p>}{_("VMs go on with the space that they have. This says what is wrong, and what to do:")} <code>{`virt-notify check ${pool.Name}`}</code></>,
    }),
    full: pool => ({
        variant: "danger",
        title: format(_("Pool $0 is full: VMs wait"), pool.Name),
        todo: _("They are paused and lose nothing. Add a disk to the volume group, delete what nobody needs, or move a VM away; they go on by themselves then."),
    }),
    low: pool => ({
        variant: "warning",
        title: format(_("Pool $0 has only $1 left, less than its low mark"), pool.Name, size(pool.Available)),
        todo: _("Add space, or let VMs move, today."),
    }),
};

const STATES = {
    fine: () => <Label color="green">{_("Active")}</Label>,
    low: () => <Label color="orange">{_("Low")}</Label>,
    full: () => <Label color="red">{_("Full")}</Label>,
    damaged: () => <Label color="red">{_("Damaged")}</Label>,
    inactive: () => <Label color="grey">{_("Not started")}</Label>,
};

export function PoolState({ pool }) {
    const { state } = usePage();
    return STATES[store.state(state.picture, pool)]();
}

function PoolCard({ pool }) {
    const { state: { picture } } = usePage();
    const how = store.state(picture, pool);
    return (
        <Card data-pool={pool.Name}>
            <CardHeader actions={{ actions: <PoolState pool={pool} />, hasNoOffset: true }}>
                <CardTitle component="h2"><PageLink to={["pool", pool.Name]}>{pool.Name}</PageLink></CardTitle>
            </CardHeader>
            <CardBody>
                {pool.Active
                    ? <>
                        <FillBar pool={pool} state={how} />
                        <FillCurve pool={pool} state={how} />
                        <PoolFacts pool={pool} />
                        <Holders pool={pool} />
                    </>
                    : <p className="quiet">{_("It is defined and not started. Start it:")} <code>{`virsh pool-start ${pool.Name}`}</code></p>}
            </CardBody>
        </Card>
    );
}

export function Fact({ name, children }) {
    return (
        <DescriptionListGroup>
            <DescriptionListTerm>{name}</DescriptionListTerm>
            <DescriptionListDescription>{children}</DescriptionListDescription>
        </DescriptionListGroup>
    );
}

/** When it is full, and how fast it goes there. What an older daemon does not tell is left out. */
export function PoolFacts({ pool, children }) {
    const left = timeToFull(pool.TimeToFull);
    const promised = pool.PromisedLimit > 0 ? format(_("$0 of $1 allowed"), size(pool.Promised), size(pool.PromisedLimit)) : size(pool.Promised);
    return (
        <DescriptionList isCompact columnModifier={{ default: "2Col" }} className="facts">
            {pool.TimeToFull !== undefined &&
                <Fact name={_("Full in")}>{left === null ? _("it does not grow") : <strong>{duration(left)}</strong>}</Fact>}
            {pool.GrowthRate !== undefined && <Fact name={_("Grows by")}>{rate(pool.GrowthRate)}</Fact>}
            {pool.Promised !== undefined && <Fact name={_("Promised")}>{promised}</Fact>}
            {pool.Headroom !== undefined && <Fact name={_("Headroom")}>{size(pool.Headroom)}</Fact>}
            {children}
        </DescriptionList>
    );
}

/** Who holds most of what would come free with it. */
function Holders({ pool }) {
    const { state: { picture } } = usePage();
    const held = largestHolders(store.volumesOf(picture, pool), 4);
    if (held.length === 0)
        return null;
    return (
        <div className="holders">
            <h3>{_("Held exclusively")}</h3>
            <ul>
                {held.map(volume =>
                    <li key={volume.path}>
                        <span>{volume.Name} <span className="quiet">{store.vmsOf(picture, volume).map(({ Name }) => Name).join(", ")}</span></span>
                        <span>{size(volume.Exclusive)}</span>
                    </li>)}
            </ul>
        </div>
    );
}
