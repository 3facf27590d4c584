// SPDX-License-Identifier: LGPL-2.1-or-later
// The dialogs of what the collector does for a whole pool.

import { FormGroup, FormHelperText, HelperText, HelperTextItem, Radio, TextInput } from "@patternfly/react-core";
import { useEffect, useState } from "react";

import { _, format } from "../cockpit.js";
import { parse } from "../model/map.js";
import { usePage } from "./context.jsx";
import { Dialog } from "./dialog.jsx";

/** Takes space back. */
export function Reclaim({ pool, close }) {
    const { daemon } = usePage();
    const [withZeroes, setZeroes] = useState(false);
    const act = () => daemon.call(pool.path, "Pool", withZeroes ? "ReclaimZeroes" : "Reclaim");
    return (
        <Dialog id="reclaim" title={format(_("Reclaim space of pool $0"), pool.Name)} action={_("Reclaim")} act={act} close={close}>
            <Radio id="reclaim-plain" name="reclaim" isChecked={!withZeroes} onChange={() => setZeroes(false)} label={_("What nobody wrote")}
                description={_("Takes back what volumes were given ahead or have discarded, and gives the volume group what the pool does not need.")} />
            <Radio id="reclaim-zeroes" name="reclaim" isChecked={withZeroes} onChange={() => setZeroes(true)} label={_("Zeroes as well")}
                description={_("Before that, reads what volumes and snapshots hold, and takes back what is all zeroes. It takes longer.")} />
        </Dialog>
    );
}

/** The volume group of a pool: as the daemon tells it, or out of the pool's map. */
function useGroup(pool) {
    const { daemon } = usePage();
    const [group, setGroup] = useState(pool.VolumeGroup ?? "");
    useEffect(() => {
        if (!pool.VolumeGroup)
            daemon.manager("Dump", [pool.Name, "metadata"], "ss").then(([text]) => setGroup(parse(text).vg), () => { /* It is typed in then. */ });
    }, [daemon, pool.Name, pool.VolumeGroup]);
    return [group, setGroup];
}

/** Empties a disk of the volume group. */
export function Evacuate({ pool, close }) {
    const { daemon } = usePage();
    const [group, setGroup] = useGroup(pool);
    const [device, setDevice] = useState("");
    const act = () => daemon.manager("Evacuate", [group, device.trim()], "ss");
    return (
        <Dialog id="evacuate" title={_("Empty a disk")} action={_("Empty disk")} act={act} close={close} isReady={group !== "" && device.trim() !== ""}>
            <FormGroup label={_("Volume group")} isRequired fieldId="evacuate-group">
                <TextInput id="evacuate-group" value={group} onChange={(_event, value) => setGroup(value)} isRequired />
            </FormGroup>
            <FormGroup label={_("Disk")} isRequired fieldId="evacuate-device">
                <TextInput id="evacuate-device" value={device} placeholder="/dev/sdb" onChange={(_event, value) => setDevice(value)} isRequired autoFocus />
                <FormHelperText>
                    <HelperText>
                        <HelperTextItem>{format(_("What the pool has on this disk moves to the others while guests run. Afterwards take the disk out with: vgreduce $0 $1"),
                                                group || "VG", device.trim() || "DISK")}</HelperTextItem>
                    </HelperText>
                </FormHelperText>
            </FormGroup>
        </Dialog>
    );
}
