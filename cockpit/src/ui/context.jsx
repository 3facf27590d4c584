// SPDX-License-Identifier: LGPL-2.1-or-later
// What all parts of the page share: the daemon, what the user may do, and how a failure is shown.

import { createContext, useCallback, useContext, useEffect, useState, useSyncExternalStore } from "react";
import { Alert, AlertActionCloseButton, AlertGroup, Button, Tooltip } from "@patternfly/react-core";

import cockpit, { _ } from "../cockpit.js";
import { kind, sentence } from "../model/problems.js";

const Shared = createContext(null);

export function usePage() {
    return useContext(Shared);
}

/** The words for an error. */
export function explain(error) {
    switch (kind(error)) {
    case "denied": return _("You may not do this. Turn on administrative access at the top of Cockpit's page.");
    case "unknown": return _("The daemon on this host is older than this page and cannot do this. Update virtnotify.");
    case "gone": return _("The daemon has gone away. Whether it did this shows when it is back.");
    default: return sentence(error);
    }
}

function useAllowed(permission) {
    const [allowed, setAllowed] = useState(permission.allowed);
    useEffect(() => {
        const changed = () => setAllowed(permission.allowed);
        permission.addEventListener("changed", changed);
        changed();
        return () => permission.removeEventListener("changed", changed);
    }, [permission]);
    return allowed;
}

export function SharedPage({ daemon, permission, children }) {
    const state = useSyncExternalStore(daemon.subscribe, daemon.snapshot);
    const allowed = useAllowed(permission);
    const [failures, setFailures] = useState([]);
    const fail = useCallback((what, error) =>
        setFailures(before => [...before, { id: `${Date.now()}-${Math.random()}`, what, text: explain(error) }]), []);
    /** Does something; a failure is shown on the page. */
    const act = useCallback((what, doing) => doing().catch(error => fail(what, error)), [fail]);
    const close = id => setFailures(before => before.filter(failure => failure.id !== id));
    return (
        <Shared.Provider value={{ daemon, state, allowed, act }}>
            {children}
            <AlertGroup isToast isLiveRegion>
                {failures.map(({ id, what, text }) =>
                    <Alert key={id} variant="danger" title={what}
                        actionClose={<AlertActionCloseButton onClose={() => close(id)} />}>
                        {text}
                    </Alert>)}
            </AlertGroup>
        </Shared.Provider>
    );
}

/** A button for what changes something: without the right to, it says why it does nothing. */
export function ActionButton({ onClick, children, ...rest }) {
    const { allowed } = usePage();
    const button = <Button {...rest} onClick={onClick} isAriaDisabled={allowed === false || rest.isAriaDisabled}>{children}</Button>;
    return allowed === false ? <Tooltip content={needsRights()}>{button}</Tooltip> : button;
}

export function needsRights() {
    return _("Turn on administrative access to change things.");
}

/** Goes to a part of the page. */
export function go(...path) {
    cockpit.location.go(path);
}

/** A link to a part of the page, for the keyboard and the mouse alike. */
export function PageLink({ to, children }) {
    const href = `#/${to.map(encodeURIComponent).join("/")}`;
    const follow = event => {
        event.preventDefault();
        go(...to);
    };
    return <a href={href} onClick={follow}>{children}</a>;
}

/** The part of the page that is shown. */
export function usePath() {
    const [path, setPath] = useState(cockpit.location.path);
    useEffect(() => {
        const changed = () => setPath(cockpit.location.path);
        cockpit.addEventListener("locationchanged", changed);
        return () => cockpit.removeEventListener("locationchanged", changed);
    }, []);
    return path;
}

