// SPDX-License-Identifier: LGPL-2.1-or-later
// The dialogs of snapshots: take, roll back, delete.

import { Checkbox, FormGroup, FormHelperText, HelperText, HelperTextItem, TextInput } from "@patternfly/react-core";
import { useState } from "react";

import { _, format, ngettext } from "../cockpit.js";
import { clock, duration, size } from "../model/sizes.js";
import { lostByRollBack, shortName } from "../model/tree.js";
import { usePage } from "./context.jsx";
import { Dialog } from "./dialog.jsx";

/** A name that says when: `2026-11-29-1145`. */
function proposed(now) {
    const two = number => String(number).padStart(2, "0");
    const day = [now.getFullYear(), two(now.getMonth() + 1), two(now.getDate())].join("-");
    return `${day}-${two(now.getHours())}${two(now.getMinutes())}`;
}

/** Takes a snapshot of one volume, or of several at one moment. */
export function TakeSnapshot({ pool, volumes, chosen, close }) {
    const { daemon } = usePage();
    const [name, setName] = useState(() => proposed(new Date()));
    const [picked, setPicked] = useState(chosen);
    const paths = picked.map(volume => `${pool.Name}/${volume}`);
    const act = () => daemon.manager("TakeSnapshot", [paths, name.trim(), {}], "assa{sv}");
    const toggle = (volume, isOn) => setPicked(before => isOn ? [...before, volume] : before.filter(other => other !== volume));
    return (
        <Dialog id="take-snapshot" title={_("Take a snapshot")} action={_("Take snapshot")} act={act} close={close}
            isReady={picked.length > 0 && name.trim() !== ""}>
            <FormGroup label={_("Name")} isRequired fieldId="snapshot-name">
                <TextInput id="snapshot-name" value={name} onChange={(_event, value) => setName(value)} isRequired autoFocus />
            </FormGroup>
            <FormGroup role="group" label={_("Volumes")} fieldId="snapshot-volumes">
                <div className="choices">
                    {volumes.map(volume =>
                        <Checkbox key={volume.Name} id={`take-${volume.Name}`} label={volume.Name} isChecked={picked.includes(volume.Name)}
                            onChange={(_event, isOn) => toggle(volume.Name, isOn)} />)}
                </div>
                <FormHelperText>
                    <HelperText>
                        <HelperTextItem>{format(ngettext("$0 volume; it takes no space at first.", "$0 volumes, all at one moment; they take no space at first.", picked.length), picked.length)}</HelperTextItem>
                    </HelperText>
                </FormHelperText>
            </FormGroup>
        </Dialog>
    );
}

/** Rolls a volume back; says before what that loses. */
export function RollBack({ pool, snapshot, volumes, close }) {
    const { daemon } = usePage();
    const [isSure, setSure] = useState(false);
    const lost = lostByRollBack(snapshot, volumes, Date.now());
    const act = () => daemon.manager("RollBack", [`${pool.Name}/${snapshot.Name}`, {}], "sa{sv}");
    const resizes = lost.capacityBefore !== null && lost.capacityBefore !== lost.capacityAfter;
    return (
        <Dialog id="roll-back" title={format(_("Roll $0 back?"), lost.volume)} action={_("Roll back")} act={act} close={close} isDanger isReady={isSure}>
            <p>{format(_("Volume $0 will hold again what it held when snapshot $1 was taken, at $2."),
                       lost.volume, shortName(snapshot), clock(snapshot.Created * 1000))}</p>
            <ul className="lost">
                <li>{format(_("All that was written to $0 in the last $1 is lost."), lost.volume, duration(lost.seconds))}</li>
                {lost.exclusive !== null && lost.exclusive > 0 &&
                    <li>{format(_("$0 that no snapshot has are lost for good."), size(lost.exclusive))}</li>}
                {resizes && <li>{format(_("Its size goes from $0 to $1."), size(lost.capacityBefore), size(lost.capacityAfter))}</li>}
            </ul>
            <p>{_("Snapshots stay, also newer ones. The volume must not be in use: shut its VM down first. To keep what it holds now, take a snapshot first.")}</p>
            <Checkbox id="roll-back-sure" label={format(_("Give up what was written to $0 since then"), lost.volume)}
                isChecked={isSure} onChange={(_event, isOn) => setSure(isOn)} />
        </Dialog>
    );
}

/** Deletes a snapshot. */
export function DeleteSnapshot({ pool, snapshot, close }) {
    const { daemon } = usePage();
    const act = () => daemon.manager("DeleteSnapshot", [`${pool.Name}/${snapshot.Name}`, {}], "sa{sv}");
    return (
        <Dialog id="delete-snapshot" title={format(_("Delete snapshot $0?"), snapshot.Name)} action={_("Delete")} act={act} close={close} isDanger>
            <p>{format(_("The volume cannot be rolled back to $0 any more. $1 come free; what other volumes and snapshots share stays."),
                       clock(snapshot.Created * 1000), size(snapshot.Exclusive ?? 0))}</p>
        </Dialog>
    );
}
