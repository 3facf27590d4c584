// SPDX-License-Identifier: LGPL-2.1-or-later
// The dialog of a pool's policy: what it does by itself when space gets low, and within which limits.

import { Checkbox, FormGroup, FormHelperText, FormSelect, FormSelectOption, HelperText, HelperTextItem, TextInput } from "@patternfly/react-core";
import { useState } from "react";

import { _, format } from "../cockpit.js";
import { WORDS, changes, form } from "../model/policy.js";
import { usePage } from "./context.jsx";
import { Dialog } from "./dialog.jsx";

const SAID = {
    "at-low-mark": {
        nothing: () => _("nothing, and nobody is told"),
        warn: () => _("tell it"),
        migrate: () => _("tell it, and have a VM move away while it runs"),
    },
    "when-full": {
        migrate: () => _("the VM pauses, moves to a peer, and goes on there"),
        pause: () => _("the VM pauses here until there is space"),
        error: () => _("the write fails, and what becomes of the VM is its own settings'"),
    },
};

export function Policy({ pool, close }) {
    const { daemon } = usePage();
    // A change from elsewhere meanwhile shows in the fields that were not touched, and stays.
    const [edited, setEdited] = useState({});
    const before = form(pool.Policy);
    const after = { ...before, ...edited };
    const changed = changes(before, after);
    const act = () => daemon.call(pool.path, "Pool", "SetPolicy", [changed, {}], "a{sv}a{sv}");
    const set = (name, value) => setEdited(now => ({ ...now, [name]: value }));
    const text = (name, label, help) => <TextField name={name} label={label} help={help} value={after[name]} set={set} />;
    const choice = (name, label) => <Choice name={name} label={label} value={after[name]} set={set} />;
    return (
        <Dialog id="policy" title={format(_("Policy of pool $0"), pool.Name)} action={_("Save")} act={act} close={close}
            isReady={Object.keys(changed).length > 0}>
            {text("low-mark", _("Space is low with less than this left"), _("A size such as 20 GiB, or a part such as 10%; 0 is never."))}
            {choice("at-low-mark", _("Then"))}
            {choice("when-full", _("When nothing is left"))}
            {text("overcommit", _("Volumes together may promise"), _("A multiple of what there is, such as 1.5, or a size; empty is no limit."))}
            {text("largest-volume", _("Largest volume"), _("A size; empty is no limit."))}
            {text("growth-least", _("A volume grows by at least"), _("A size; empty leaves it to the pool."))}
            {text("growth-most", _("A volume grows by at most"), _("A size; empty leaves it to the pool."))}
            {text("bandwidth", _("A move sends in a second at most"), _("A size; empty is no limit."))}
            {text("window", _("VMs leave at the low mark between"), _("A part of the day such as 22:00-06:30; empty is always."))}
            {text("daily", _("VMs that leave so in a day, at most"), _("A number; empty is no limit."))}
            <Flag name="movable" label={_("VMs with a disk here may be moved")} value={after.movable} set={set} />
            <Flag name="passdown" label={_("Discard on the disks what goes back to the volume group")} value={after.passdown} set={set} />
        </Dialog>
    );
}

function TextField({ name, label, help, value, set }) {
    const id = `policy-${name}`;
    return (
        <FormGroup label={label} fieldId={id}>
            <TextInput id={id} value={value} onChange={(_event, text) => set(name, text)} />
            <FormHelperText><HelperText><HelperTextItem>{help}</HelperTextItem></HelperText></FormHelperText>
        </FormGroup>
    );
}

function Choice({ name, label, value, set }) {
    const id = `policy-${name}`;
    // One that this page does not know is shown as it is.
    const words = WORDS[name].includes(value) ? WORDS[name] : [value, ...WORDS[name]];
    return (
        <FormGroup label={label} fieldId={id}>
            <FormSelect id={id} value={value} onChange={(_event, word) => set(name, word)}>
                {words.map(word => <FormSelectOption key={word} value={word} label={SAID[name][word]?.() ?? word} />)}
            </FormSelect>
        </FormGroup>
    );
}

function Flag({ name, label, value, set }) {
    return <Checkbox id={`policy-${name}`} label={label} isChecked={value === "yes"} onChange={(_event, isOn) => set(name, isOn ? "yes" : "no")} />;
}
