// SPDX-License-Identifier: LGPL-2.1-or-later
// A pool: its figures, what can be done with it, its volumes and snapshots as a tree.

import {
    Breadcrumb, BreadcrumbItem, Card, CardBody, CardTitle, Dropdown, DropdownItem, DropdownList, EmptyState,
    EmptyStateBody, Label, MenuToggle, PageSection, Progress, Title,
} from "@patternfly/react-core";
import { CubeIcon, EllipsisVIcon } from "@patternfly/react-icons";
import { useState } from "react";

import { _, format } from "../cockpit.js";
import { speed } from "../model/samples.js";
import { clock, percent, rate, size } from "../model/sizes.js";
import * as store from "../model/store.js";
import { rows, shortName } from "../model/tree.js";
import { Activity } from "./activity.jsx";
import { ActionButton, PageLink, go, usePage } from "./context.jsx";
import { Events } from "./events.jsx";
import { FillBar, FillCurve } from "./fill.jsx";
import { Evacuate, Reclaim } from "./jobs.jsx";
import { Fact, PoolFacts, PoolState } from "./overview.jsx";
import { DeleteSnapshot, RollBack, TakeSnapshot } from "./snapshots.jsx";
import { Policy } from "./policy.jsx";
import { Table } from "./table.jsx";
import { CloneVolume, CreateVolume, DeleteVolume, Pin, ResizeVolume } from "./volumes.jsx";

export function PoolPage({ pool }) {
    const { state: { picture } } = usePage();
    const [dialog, setDialog] = useState(null);
    const close = () => setDialog(null);
    const volumes = store.volumesOf(picture, pool);
    const how = store.state(picture, pool);
    return (
        <>
            <PageSection className="head">
                <Breadcrumb className="head-path">
                    <BreadcrumbItem><PageLink to={[]}>{_("Thin storage")}</PageLink></BreadcrumbItem>
                    <BreadcrumbItem isActive>{pool.Name}</BreadcrumbItem>
                </Breadcrumb>
                <Title headingLevel="h1">{pool.Name}</Title>
                <PoolState pool={pool} />
                {pool.Active && <PoolActions pool={pool} volumes={volumes} open={setDialog} />}
            </PageSection>
            {pool.Active
                ? <PageSection>
                    <Card>
                        <CardTitle component="h2">{_("Space")}</CardTitle>
                        <CardBody>
                            <FillBar pool={pool} state={how} />
                            <FillCurve pool={pool} state={how} />
                            <PoolFacts pool={pool}>
                                <Fact name={_("Chunk")}>{size(pool.ChunkSize)}</Fact>
                                <Fact name={_("Low mark")}>{pool.LowMark > 0 ? size(pool.LowMark) : _("none")}</Fact>
                            </PoolFacts>
                        </CardBody>
                    </Card>
                </PageSection>
                : <PageSection>
                    <EmptyState titleText={_("This pool is not started")} icon={CubeIcon} headingLevel="h2">
                        <EmptyStateBody><code>{`virsh pool-start ${pool.Name}`}</code></EmptyStateBody>
                    </EmptyState>
                </PageSection>}
            {pool.Active && <PageSection>
                <Card>
                    <CardTitle component="h2">{_("Volumes and snapshots")}</CardTitle>
                    <CardBody><Volumes pool={pool} volumes={volumes} open={setDialog} /></CardBody>
                </Card>
            </PageSection>}
            <PageSection>
                <Card>
                    <CardTitle component="h2">{_("Moves and jobs")}</CardTitle>
                    <CardBody><Activity pool={pool} /></CardBody>
                </Card>
            </PageSection>
            <PageSection isFilled>
                <Card>
                    <CardTitle component="h2">{_("Events")}</CardTitle>
                    <CardBody><Events pool={pool} /></CardBody>
                </Card>
            </PageSection>
            <PoolDialog dialog={dialog} pool={pool} volumes={volumes} close={close} />
        </>
    );
}

function PoolDialog({ dialog, pool, volumes, close }) {
    const own = volumes.filter(({ Kind }) => Kind !== "snapshot");
    switch (dialog?.what) {
    case "take": return <TakeSnapshot pool={pool} volumes={own} chosen={dialog.volumes} close={close} />;
    case "roll-back": return <RollBack pool={pool} snapshot={dialog.volume} volumes={volumes} close={close} />;
    case "delete": return <DeleteSnapshot pool={pool} snapshot={dialog.volume} close={close} />;
    case "reclaim": return <Reclaim pool={pool} close={close} />;
    case "evacuate": return <Evacuate pool={pool} close={close} />;
    case "policy": return <Policy pool={pool} close={close} />;
    case "create": return <CreateVolume pool={pool} close={close} />;
    case "clone": return <CloneVolume volume={dialog.volume} close={close} />;
    case "resize": return <ResizeVolume volume={dialog.volume} close={close} />;
    case "delete-volume": return <DeleteVolume volume={dialog.volume} volumes={volumes} close={close} />;
    case "pin": return <Pin vm={dialog.vm} close={close} />;
    default: return null;
    }
}

function PoolActions({ pool, volumes, open }) {
    const { daemon, act } = usePage();
    const own = volumes.filter(({ Kind }) => Kind !== "snapshot").map(({ Name }) => Name);
    const call = (method, failed) => act(failed, () => daemon.call(pool.path, "Pool", method));
    return (
        <span className="head-actions">
            <ActionButton onClick={() => open({ what: "take", volumes: own })} id="take" isAriaDisabled={own.length === 0}>{_("Take a snapshot")}</ActionButton>
            {canCreate(daemon, pool) && <ActionButton variant="secondary" onClick={() => open({ what: "create" })} id="create">{_("Create a volume")}</ActionButton>}
            <Menu label={format(_("More for pool $0"), pool.Name)} id="pool-menu" items={[
                pool.Policy && daemon.has("Pool", "SetPolicy") && { name: _("Policy"), act: () => open({ what: "policy" }) },
                daemon.has("Pool", "Defragment") && { name: _("Defragment"), act: () => call("Defragment", _("The pool was not defragmented")) },
                { name: _("Reclaim space"), act: () => open({ what: "reclaim" }) },
                daemon.has("Manager", "Evacuate") && { name: _("Empty a disk"), act: () => open({ what: "evacuate" }) },
                { name: _("Look at the volume group again"), act: () => call("Refresh", _("The volume group was not looked at")) },
            ]} />
        </span>
    );
}

/** An older daemon tells no policy, and makes no volumes. */
function canCreate(daemon, pool) {
    return pool.Policy !== undefined && daemon.has("Pool", "CreateVolume");
}

/** A menu of what changes something, or asks for what is not for everybody. */
function Menu({ label, items, id }) {
    const { allowed } = usePage();
    const [isOpen, setOpen] = useState(false);
    const toggle = ref =>
        <MenuToggle ref={ref} id={id} variant="plain" aria-label={label} isExpanded={isOpen} onClick={() => setOpen(!isOpen)} icon={<EllipsisVIcon />} />;
    return (
        <Dropdown isOpen={isOpen} onOpenChange={setOpen} onSelect={() => setOpen(false)} toggle={toggle} popperProps={{ position: "right" }} shouldFocusFirstItemOnOpen>
            <DropdownList>
                {items.filter(Boolean).map(({ name, act, isDanger }) =>
                    <DropdownItem key={name} onClick={act} isDanger={isDanger} isDisabled={allowed === false}>{name}</DropdownItem>)}
            </DropdownList>
        </Dropdown>
    );
}

const STATES = {
    active: () => null,
    "out-of-space": () => <Label color="red" isCompact>{_("Out of space")}</Label>,
    inactive: () => <Label color="grey" isCompact>{_("No device")}</Label>,
};

function Volumes({ pool, volumes, open }) {
    const { daemon, state: { picture } } = usePage();
    if (volumes.length === 0)
        return (
            <EmptyState titleText={_("No volumes yet")} icon={CubeIcon} headingLevel="h3" variant="sm">
                <EmptyStateBody>
                    <p>{canCreate(daemon, pool)
                        ? _("Create one here, with virsh, or with Cockpit's page of virtual machines; it takes no space until a guest writes:")
                        : _("Create one with virsh, or with Cockpit's page of virtual machines; it takes no space until a guest writes:")}</p>
                    <p><code>{`virsh vol-create-as ${pool.Name} disk0 100G`}</code></p>
                </EmptyStateBody>
            </EmptyState>
        );
    const row = ({ volume, depth }) => ({
        key: volume.Name,
        depth,
        cells: [
            <Name key="n" volume={volume} vms={store.vmsOf(picture, volume)} />,
            <Held key="h" volume={volume} speed={speed(picture.growths.get(`${pool.Name}/${volume.Name}`) ?? [], 60, Date.now())} />,
            volume.Exclusive === undefined ? "" : size(volume.Exclusive),
            volume.Created ? clock(volume.Created * 1000) : "",
            <VolumeMenu key="m" pool={pool} volume={volume} vms={store.vmsOf(picture, volume)} open={open} />,
        ],
    });
    return <Table id="volumes" label={_("Volumes and snapshots")} columns={[_("Name"), _("Holds"), _("Of that alone"), _("Made"), ""]} rows={rows(volumes).map(row)} />;
}

function Name({ volume, vms }) {
    const isSnapshot = volume.Kind === "snapshot";
    return (
        <span className="name">
            <span className={isSnapshot ? "" : "strong"}>{isSnapshot ? `@${shortName(volume)}` : volume.Name}</span>
            {isSnapshot && <Label color="blue" variant="outline" isCompact>{_("Snapshot")}</Label>}
            {isSnapshot ? null : (STATES[volume.State] ?? (() => null))()}
            {vms.map(vm =>
                <span key={vm.path} className="quiet" data-vm={vm.Name}>
                    {vm.Name} {vm.Kept !== "" && <Label color="purple" variant="outline" isCompact>{vm.Pinned ? _("Pinned") : _("Stays")}</Label>}
                </span>)}
        </span>
    );
}

function Held({ volume, speed: fast }) {
    const text = format(_("$0 of $1"), size(volume.Allocation), size(volume.Capacity));
    return (
        <div className="course">
            <Progress value={percent(volume.Allocation, volume.Capacity)} size="sm" measureLocation="none" aria-label={format(_("What $0 holds"), volume.Name)} />
            <span className="quiet">{fast ? `${text} · +${rate(fast)}` : text}</span>
        </div>
    );
}

function VolumeMenu({ pool, volume, vms, open }) {
    const { daemon, act } = usePage();
    const call = (method, failed) => act(failed, () => daemon.call(volume.path, "Volume", method));
    const isSnapshot = volume.Kind === "snapshot";
    return <Menu label={format(_("More for $0"), volume.Name)} items={[
        !isSnapshot && { name: _("Take a snapshot"), act: () => open({ what: "take", volumes: [volume.Name] }) },
        isSnapshot && { name: _("Roll back to it"), act: () => open({ what: "roll-back", volume }) },
        canCreate(daemon, pool) && { name: _("Clone"), act: () => open({ what: "clone", volume }) },
        !isSnapshot && canCreate(daemon, pool) && { name: _("Resize"), act: () => open({ what: "resize", volume }) },
        ...vms.filter(() => daemon.has("Manager", "Pin")).map(vm =>
            ({ name: format(_("Where VM $0 may be"), vm.Name), act: () => open({ what: "pin", vm }) })),
        { name: _("Show where it lies"), act: () => go("pool", pool.Name, "map", volume.Name) },
        daemon.has("Volume", "Defragment") && { name: _("Defragment"), act: () => call("Defragment", _("It was not defragmented")) },
        !isSnapshot && daemon.has("Volume", "Reclaim") && { name: _("Reclaim space"), act: () => call("Reclaim", _("No space was reclaimed")) },
        daemon.has("Volume", "ReclaimZeroes") && { name: _("Reclaim zeroes"), act: () => call("ReclaimZeroes", _("No zeroes were reclaimed")) },
        isSnapshot && { name: _("Delete"), isDanger: true, act: () => open({ what: "delete", volume }) },
        !isSnapshot && canCreate(daemon, pool) && { name: _("Delete"), isDanger: true, act: () => open({ what: "delete-volume", volume }) },
    ]} />;
}
