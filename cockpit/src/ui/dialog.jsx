// SPDX-License-Identifier: LGPL-2.1-or-later
// A dialog that does one thing, and shows in itself why it did not.

import { Alert, Button, Form, Modal, ModalBody, ModalFooter, ModalHeader } from "@patternfly/react-core";
import { useId, useState } from "react";

import { _ } from "../cockpit.js";
import { explain } from "./context.jsx";

/** `act` is a function that returns a promise; the dialog closes when it is kept, unless it says `true`: there is more to do. */
export function Dialog({ title, action, act, close, isDanger, isReady = true, children, id }) {
    const [isBusy, setBusy] = useState(false);
    const [error, setError] = useState(null);
    const label = useId();
    const submit = async event => {
        event?.preventDefault();
        if (!isReady || isBusy)
            return;
        setBusy(true);
        setError(null);
        try {
            const goesOn = await act() === true;
            setBusy(false);
            if (!goesOn)
                close();
        } catch (reason) {
            setError(explain(reason));
            setBusy(false);
        }
    };
    return (
        <Modal isOpen variant="small" onClose={close} aria-labelledby={label} id={id} position="top">
            <ModalHeader title={title} labelId={label} titleIconVariant={isDanger ? "warning" : undefined} />
            <ModalBody>
                <Form onSubmit={submit}>
                    {error && <Alert isInline variant="danger" title={_("It was not done")}>{error}</Alert>}
                    {children}
                    {/* With it, Enter in any field does what the button below does. */}
                    <button type="submit" hidden />
                </Form>
            </ModalBody>
            <ModalFooter>
                <Button variant={isDanger ? "danger" : "primary"} onClick={submit} isLoading={isBusy} isDisabled={isBusy || !isReady}>{action}</Button>
                <Button variant="link" onClick={close}>{_("Close")}</Button>
            </ModalFooter>
        </Modal>
    );
}
