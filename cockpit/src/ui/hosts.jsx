// SPDX-License-Identifier: LGPL-2.1-or-later
// The other hosts, the VMs that wait, and whether this host is being emptied.

import { Alert, Card, CardBody, CardTitle, Label, PageSection } from "@patternfly/react-core";
import { useState } from "react";

import { _, format } from "../cockpit.js";
import { duration, moment, size } from "../model/sizes.js";
import * as store from "../model/store.js";
import { ActionButton, usePage } from "./context.jsx";
import { Dialog } from "./dialog.jsx";
import { Table } from "./table.jsx";

/** VMs that are paused for want of space. */
export function Waiting({ move }) {
    const { daemon, state: { picture }, act } = usePage();
    const [retried, setRetried] = useState([]);
    const waiting = store.all(picture, "Waiting");
    const retry = () => act(_("It was not tried again"), async () => setRetried((await daemon.manager("RetryNow", [{}], "a{sv}"))[0]));
    if (waiting.length === 0)
        return null;
    const rows = waiting.map(each => ({
        key: each.path,
        cells: [
            <strong key="n">{each.Domain}</strong>,
            duration(Date.now() / 1000 - each.Since),
            picture.objects.get(each.Volume)?.Name ?? "",
            each.Reason || _("it was not tried yet, or is about to be"),
            <ActionButton key="m" variant="secondary" size="sm" onClick={() => move(each.Domain)} aria-label={format(_("Move $0"), each.Domain)}>{_("Move")}</ActionButton>,
        ],
    }));
    return (
        <PageSection>
            <Card id="waiting">
                <CardTitle component="h2">{_("VMs that wait for space")}</CardTitle>
                <CardBody>
                    <Table label={_("VMs that wait for space")} columns={[_("VM"), _("Since"), _("Volume"), _("Why it was not moved"), ""]} rows={rows} />
                    {daemon.has("Manager", "RetryNow") &&
                        <ActionButton variant="link" onClick={retry} id="retry">{_("Try all of them again now")}</ActionButton>}
                    {retried.filter(([, , now]) => now === "waits").map(([domain, uuid, , why]) => <p key={uuid} className="quiet">{format(_("$0 still waits: $1"), domain, why)}</p>)}
                </CardBody>
            </Card>
        </PageSection>
    );
}

/** The hosts that VMs may move to. A daemon that tells none of them is shown without. */
export function Peers() {
    const { state: { picture, drained } } = usePage();
    const peers = store.all(picture, "Peer");
    if (drained === undefined)
        return null;
    const rows = peers.map(peer => ({
        key: peer.path,
        cells: [
            <div key="n"><strong>{peer.Name}</strong><div className="quiet">{peer.Uri}</div></div>,
            <Health key="h" peer={peer} />,
            <ul key="p">{(peer.Pools ?? []).map(([name, capacity, available]) =>
                <li key={name}>{format(_("$0: $1 of $2 left"), name, size(available), size(capacity))}</li>)}</ul>,
            format(_("$0 of $1"), peer.Arriving ?? 0, peer.Arrivals ?? 0),
        ],
    }));
    return (
        <PageSection>
            <Card id="peers">
                <CardTitle component="h2">{_("Peers")}</CardTitle>
                <CardBody>
                    {rows.length > 0
                        ? <Table label={_("Peers")} columns={[_("Peer"), _("How it is"), _("Its pools"), _("VMs on their way there")]} rows={rows} />
                        : <p className="quiet">{_("No peer is named in /etc/virtnotify/virtnotify.toml: a VM that finds no space waits here.")}</p>}
                </CardBody>
            </Card>
        </PageSection>
    );
}

function Health({ peer }) {
    if (!peer.Checked)
        return <Label color="grey" isCompact>{_("Not asked yet")}</Label>;
    const asked = <span className="quiet">{format(_("asked at $0"), moment(peer.Checked * 1000))}</span>;
    return peer.Problem
        ? <div><Label color="red" isCompact>{_("No VM can go there")}</Label> {peer.Problem} <div>{asked}</div></div>
        : <div><Label color="green" isCompact>{_("Ready")}</Label> {asked}</div>;
}

/** Has all VMs leave this host, or lets them come again. */
export function Drain({ close }) {
    const { daemon, state: { drained } } = usePage();
    const act = () => daemon.manager("Drain", [!drained], "b");
    return drained
        ? <Dialog id="drain" title={_("Let VMs come to this host again?")} action={_("Let them come")} act={act} close={close}>
            <p>{_("Peers may send VMs here again. Those that have left come back only when a person moves them.")}</p>
        </Dialog>
        : <Dialog id="drain" title={_("Empty this host?")} action={_("Empty this host")} act={act} close={close} isDanger>
            <p>{_("Its VMs move to the peers one after the other, while they run, and no peer sends any here. A restart does not end that; you end it here.")}</p>
        </Dialog>;
}

export function Drained() {
    const { state: { drained } } = usePage();
    return drained
        ? <PageSection><Alert id="drained" isInline variant="info" title={_("This host is being emptied")}>{_("Its VMs move away one after the other, and none comes.")}</Alert></PageSection>
        : null;
}
