// SPDX-License-Identifier: LGPL-2.1-or-later
// The dialogs of volumes: create, clone, resize, delete, and keep a volume's VM here.

import { Checkbox, FormGroup, FormHelperText, HelperText, HelperTextItem, Radio, TextInput } from "@patternfly/react-core";
import { useState } from "react";

import { _, format, ngettext } from "../cockpit.js";
import { exact } from "../model/policy.js";
import { parseSize, size } from "../model/sizes.js";
import { shortName, volumeOf } from "../model/tree.js";
import { usePage } from "./context.jsx";
import { Dialog } from "./dialog.jsx";

function Field({ id, label, value, set, help, autoFocus = false, placeholder }) {
    return (
        <FormGroup label={label} isRequired fieldId={id}>
            <TextInput id={id} value={value} onChange={(_event, text) => set(text)} isRequired autoFocus={autoFocus} placeholder={placeholder} />
            {help && <FormHelperText><HelperText><HelperTextItem>{help}</HelperTextItem></HelperText></FormHelperText>}
        </FormGroup>
    );
}

/** Makes an empty volume. */
export function CreateVolume({ pool, close }) {
    const { daemon } = usePage();
    const [name, setName] = useState("");
    const [text, setText] = useState("");
    const bytes = parseSize(text);
    const act = () => daemon.call(pool.path, "Pool", "CreateVolume", [name.trim(), bytes, {}], "sta{sv}");
    return (
        <Dialog id="create-volume" title={format(_("Create a volume in pool $0"), pool.Name)} action={_("Create")} act={act} close={close}
            isReady={name.trim() !== "" && bytes > 0}>
            <Field id="create-name" label={_("Name")} value={name} set={setName} autoFocus />
            <Field id="create-size" label={_("Size")} value={text} set={setText} placeholder="100 GiB"
                help={_("It takes no space until a guest writes.")} />
        </Dialog>
    );
}

/** Makes a volume of another one, or of a snapshot. */
export function CloneVolume({ volume, close }) {
    const { daemon } = usePage();
    const [name, setName] = useState("");
    const act = () => daemon.call(volume.path, "Volume", "Clone", [name.trim(), {}], "sa{sv}");
    const of = volume.Kind === "snapshot" ? shortName(volume) : volume.Name;
    return (
        <Dialog id="clone-volume" title={format(_("Clone $0"), of)} action={_("Clone")} act={act} close={close} isReady={name.trim() !== ""}>
            <Field id="clone-name" label={_("Name")} value={name} set={setName} autoFocus
                help={_("The new volume holds what this one holds at this moment. Nothing is copied, and it takes no space at first.")} />
        </Dialog>
    );
}

/** Gives a volume another size; a smaller one only when it is said that the rest may go. */
export function ResizeVolume({ volume, close }) {
    const { daemon } = usePage();
    const [text, setText] = useState(() => exact(volume.Capacity));
    const [isSure, setSure] = useState(false);
    const bytes = parseSize(text);
    const shrinks = bytes > 0 && bytes < volume.Capacity;
    const options = shrinks ? { shrink: { t: "b", v: true } } : {};
    const act = () => daemon.call(volume.path, "Volume", "Resize", [bytes, options], "ta{sv}");
    return (
        <Dialog id="resize-volume" title={format(_("Resize $0"), volume.Name)} action={_("Resize")} act={act} close={close} isDanger={shrinks}
            isReady={bytes > 0 && bytes !== volume.Capacity && (!shrinks || isSure)}>
            <Field id="resize-size" label={_("Size")} value={text} set={setText} autoFocus
                help={format(_("It has $0 now, of which it holds $1. The guest sees the new size when its disk is read anew."), size(volume.Capacity), size(volume.Allocation))} />
            {shrinks && <Checkbox id="resize-sure" label={_("Give up what lies behind its new end")} isChecked={isSure} onChange={(_event, isOn) => setSure(isOn)} />}
        </Dialog>
    );
}

/** Deletes a volume with its snapshots; says before what is lost. */
export function DeleteVolume({ volume, volumes, close }) {
    const { daemon } = usePage();
    const [isSure, setSure] = useState(false);
    const count = volumes.filter(({ Kind, Name }) => Kind === "snapshot" && volumeOf(Name) === volume.Name).length;
    const options = count > 0 ? { snapshots: { t: "b", v: true } } : {};
    const act = () => daemon.call(volume.path, "Volume", "Delete", [options], "a{sv}");
    return (
        <Dialog id="delete-volume" title={format(_("Delete volume $0?"), volume.Name)} action={_("Delete")} act={act} close={close} isDanger isReady={isSure}>
            <ul className="lost">
                <li>{format(_("All $0 that it holds are lost."), size(volume.Allocation))}</li>
                {count > 0 && <li>{format(ngettext("$0 snapshot of it is lost as well.", "$0 snapshots of it are lost as well.", count), count)}</li>}
            </ul>
            <p>{_("The volume must not be in use. What was cloned of it stays.")}</p>
            <Checkbox id="delete-sure" label={format(_("Give up what $0 holds"), volume.Name)} isChecked={isSure} onChange={(_event, isOn) => setSure(isOn)} />
        </Dialog>
    );
}

/** Keeps a VM on this host, or lets it move again. */
export function Pin({ vm, close }) {
    const { daemon } = usePage();
    const [isPinned, setPinned] = useState(vm.Pinned);
    const act = () => daemon.manager("Pin", [vm.Uuid, isPinned], "sb");
    return (
        <Dialog id="pin" title={format(_("Where VM $0 may be"), vm.Name)} action={_("Save")} act={act} close={close} isReady={isPinned !== vm.Pinned}>
            <Radio id="pin-here" name="pin" isChecked={isPinned} onChange={() => setPinned(true)} label={_("On this host alone")}
                description={_("It is not moved, whether its pool is full or this host is emptied. That is written into its metadata.")} />
            <Radio id="pin-free" name="pin" isChecked={!isPinned} onChange={() => setPinned(false)} label={_("Where there is space")}
                description={_("It may be moved again.")} />
        </Dialog>
    );
}
