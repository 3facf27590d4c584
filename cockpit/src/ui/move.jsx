// SPDX-License-Identifier: LGPL-2.1-or-later
// The dialog that has a VM move to another host: first the plan with its reasons, then the move.

import { Alert, FormGroup, FormHelperText, FormSelect, FormSelectOption, HelperText, HelperTextItem, TextInput } from "@patternfly/react-core";
import { useState } from "react";

import { _, format } from "../cockpit.js";
import { readPlan } from "../model/plan.js";
import { kind } from "../model/problems.js";
import { duration, size } from "../model/sizes.js";
import * as store from "../model/store.js";
import { usePage } from "./context.jsx";
import { Dialog } from "./dialog.jsx";
import { Table } from "./table.jsx";

export function MoveDialog({ domain: chosen = "", close }) {
    const { daemon, state } = usePage();
    const guests = store.all(state.picture, "Vm").map(({ Name }) => Name);
    const [domain, setDomain] = useState(chosen);
    const [peer, setPeer] = useState("");
    const [plan, setPlan] = useState(null);
    const change = set => value => {
        setPlan(null);
        set(value);
    };
    const move = () => daemon.manager("Migrate", [domain.trim(), peer.trim()], "ss");
    const look = async () => {
        try {
            const [answer] = await daemon.manager("Plan", [domain.trim(), peer.trim()], "ss");
            setPlan(readPlan(answer));
            return true;
        } catch (error) {
            if (kind(error) !== "unknown")
                throw error;
            // An older daemon moves without a plan.
            return move();
        }
    };
    const isFirst = !plan && daemon.has("Manager", "Plan");
    return (
        <Dialog id="move-dialog" title={_("Move a VM to another host")} action={isFirst ? _("Show the plan") : _("Move")} close={close}
            act={isFirst ? look : move} isReady={domain.trim() !== "" && (!plan || plan.stays === "")}>
            <FormGroup label={_("VM")} isRequired fieldId="move-domain">
                <TextInput id="move-domain" value={domain} list="move-guests" onChange={(_event, value) => change(setDomain)(value)} isRequired autoFocus />
                <datalist id="move-guests">{guests.map(name => <option key={name} value={name} />)}</datalist>
                <FormHelperText><HelperText><HelperTextItem>{_("By name or UUID. It runs on, and its disks go with it.")}</HelperTextItem></HelperText></FormHelperText>
            </FormGroup>
            <PeerField value={peer} change={change(setPeer)} />
            {plan && <Plan plan={plan} />}
        </Dialog>
    );
}

/** The peers to choose from; a field of text where the daemon does not tell them. */
function PeerField({ value, change }) {
    const { state } = usePage();
    const peers = store.all(state.picture, "Peer");
    return (
        <FormGroup label={_("To")} fieldId="move-to">
            {peers.length > 0
                ? <FormSelect id="move-to" value={value} onChange={(_event, name) => change(name)}>
                    <FormSelectOption value="" label={_("the peer that fits best")} />
                    {peers.map(({ Name }) => <FormSelectOption key={Name} value={Name} label={Name} />)}
                </FormSelect>
                : <TextInput id="move-to" value={value} onChange={(_event, text) => change(text)} placeholder={_("the peer that fits best")} />}
            <FormHelperText><HelperText><HelperTextItem>{_("A peer of virtnotify.toml, by name or URI.")}</HelperTextItem></HelperText></FormHelperText>
        </FormGroup>
    );
}

function Plan({ plan }) {
    const rows = plan.candidates.map(({ name, isPossible, free, why }) => ({
        key: `plan-${name}`,
        cells: [
            name === plan.to ? <strong key="n">{name}</strong> : name,
            isPossible ? _("possible") : format(_("no: $0"), why),
            isPossible ? size(free) : "",
        ],
    }));
    return (
        <div id="plan">
            {plan.stays
                ? <Alert isInline variant="warning" title={format(_("VM $0 would stay here"), plan.domain)}>{plan.stays}</Alert>
                : <Alert isInline variant="info" title={format(_("VM $0 would go to $1"), plan.domain, plan.to)}>
                    {format(_("$0 are copied; that takes about $1."), size(plan.bytes), duration(plan.seconds))}
                </Alert>}
            {rows.length > 0 && <Table label={_("Peers that were asked")} columns={[_("Peer"), _("It can go there"), _("Left there then")]} rows={rows} />}
        </div>
    );
}
