// SPDX-License-Identifier: LGPL-2.1-or-later
// The page: which part of it is shown, and what is shown when a daemon does not run.

import {
    Alert, Button, EmptyState, EmptyStateActions, EmptyStateBody, EmptyStateFooter, Page, PageSection, Spinner,
} from "@patternfly/react-core";
import { ExclamationCircleIcon, LockIcon, PowerOffIcon, SearchIcon } from "@patternfly/react-icons";

import { _ } from "../cockpit.js";
import { canStart, sentence } from "../model/problems.js";
import * as store from "../model/store.js";
import { ActionButton, SharedPage, needsRights, usePage, usePath } from "./context.jsx";
import { MapPage } from "./map.jsx";
import { Overview } from "./overview.jsx";
import { PoolPage } from "./pool.jsx";

export function App({ daemon, permission }) {
    return (
        <SharedPage daemon={daemon} permission={permission}>
            <Page className="pf-m-no-sidebar" isContentFilled>
                <Shown />
            </Page>
        </SharedPage>
    );
}

function Shown() {
    const { state, allowed } = usePage();
    if (state.phase !== "ready")
        return <PageSection isFilled><NotReady /></PageSection>;
    return (
        <>
            {allowed === false &&
                <PageSection padding={{ default: "noPadding" }}>
                    <Alert isInline variant="info" title={_("You can look, and change nothing")} id="limited">{needsRights()}</Alert>
                </PageSection>}
            <StorageGone />
            <Part />
        </>
    );
}

/** virtnotifyd does not run: all is shown as it was last. */
function StorageGone() {
    const { daemon, state: { storage }, act } = usePage();
    if (storage === undefined || storage === "runs")
        return null;
    const start = () => act(_("virtnotifyd was not started"), () => daemon.startStorage());
    return (
        <PageSection padding={{ default: "noPadding" }}>
            <Alert isInline variant="danger" id="storage-gone"
                title={_("virtnotifyd does not run: a write to space that a volume did not have yet waits")}
                actionLinks={canStart(storage) && <ActionButton variant="link" isInline onClick={start}>{_("Start virtnotifyd")}</ActionButton>}>
                <p>{_("VMs go on. Pools and volumes are shown as they were last.")}</p>
                {storage === "failed" && <p>{_("Its last lines say why it ended:")} <code>journalctl -u virtnotifyd -n 20</code></p>}
            </Alert>
        </PageSection>
    );
}

function Part() {
    const { state } = usePage();
    const [part, name, what, volume] = usePath();
    if (part !== "pool")
        return <Overview />;
    const pool = store.poolNamed(state.picture, name);
    if (!pool)
        return <PageSection isFilled><NoSuchPool name={name} /></PageSection>;
    return what === "map" ? <MapPage pool={pool} name={volume} /> : <PoolPage pool={pool} />;
}

function NoSuchPool({ name }) {
    return (
        <EmptyState titleText={name} icon={SearchIcon} headingLevel="h1">
            <EmptyStateBody>{_("There is no such pool any more.")}</EmptyStateBody>
            <EmptyStateFooter><a href="#/">{_("All pools")}</a></EmptyStateFooter>
        </EmptyState>
    );
}

function NotReady() {
    const { daemon, state, act } = usePage();
    switch (state.phase) {
    case "connecting":
        return <EmptyState titleText={_("Connecting to virtnotify")} icon={Spinner} headingLevel="h1" id="connecting" />;
    case "gone":
        return <Gone />;
    case "denied":
        return (
            <EmptyState titleText={_("You may not look at the pools")} icon={LockIcon} headingLevel="h1" id="denied">
                <EmptyStateBody>{_("The system's bus refused the connection. Turn on administrative access, or ask who looks after this host.")}</EmptyStateBody>
            </EmptyState>
        );
    default:
        return (
            <EmptyState titleText={_("The pools cannot be shown")} icon={ExclamationCircleIcon} status="danger" headingLevel="h1" id="failed">
                <EmptyStateBody>{sentence(state.error)}</EmptyStateBody>
                <EmptyStateFooter>
                    <EmptyStateActions>
                        <Button onClick={() => act(_("Try again"), async () => daemon.open())}>{_("Try again")}</Button>
                    </EmptyStateActions>
                </EmptyStateFooter>
            </EmptyState>
        );
    }
}

function Gone() {
    const { daemon, state, act } = usePage();
    if (state.why === "absent")
        return (
            <EmptyState titleText={_("virtnotify is not installed on this host")} icon={SearchIcon} headingLevel="h1" id="absent">
                <EmptyStateBody>{_("Install the package virtnotify. This page finds it by itself.")}</EmptyStateBody>
            </EmptyState>
        );
    const hasFailed = state.why === "failed";
    const both = canStart(state.storage);
    const start = () => act(_("virtnotify-control was not started"), () => daemon.start());
    return (
        <EmptyState titleText={hasFailed ? _("virtnotify-control has failed") : _("virtnotify-control does not run")} headingLevel="h1" id="stopped"
            icon={hasFailed ? ExclamationCircleIcon : PowerOffIcon} status={hasFailed ? "danger" : undefined}>
            <EmptyStateBody>
                <p>
                    {both
                        ? _("Nor does virtnotifyd: VMs go on, but a write to space that a volume did not have yet waits. Start both here, or in a shell:")
                        : _("VMs go on and volumes grow; no VM moves, and nothing can be shown. Start it here, or in a shell:")}
                </p>
                <p><code>{both ? "systemctl start virtnotifyd virtnotify-control" : "systemctl start virtnotify-control"}</code></p>
                {hasFailed && <p>{_("Its last lines say why it ended:")} <code>journalctl -u virtnotify-control -n 20</code></p>}
            </EmptyStateBody>
            <EmptyStateFooter>
                <EmptyStateActions><ActionButton onClick={start}>{both ? _("Start both") : _("Start virtnotify-control")}</ActionButton></EmptyStateActions>
            </EmptyStateFooter>
        </EmptyState>
    );
}
