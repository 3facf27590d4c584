// SPDX-License-Identifier: LGPL-2.1-or-later
// What an error of D-Bus or of Cockpit means for the page.

const OURS = "org.virtnotify1.Error.";
const BUS = "org.freedesktop.DBus.Error.";
const GONE = ["ServiceUnknown", "NameHasNoOwner", "NoReply", "Disconnected", "NoServer"].map(name => BUS + name);
const UNKNOWN = ["UnknownMethod", "UnknownInterface", "UnknownProperty"].map(name => BUS + name);
const DENIED = [`${BUS}AccessDenied`, `${BUS}InteractiveAuthorizationRequired`, `${OURS}NotAuthorized`];

/** `gone`, `unknown` (an older daemon), `denied`, or `failed`. */
export function kind(error) {
    if (DENIED.includes(error?.name) || error?.problem === "access-denied")
        return "denied";
    if (UNKNOWN.includes(error?.name))
        return "unknown";
    if (GONE.includes(error?.name) || ["not-found", "disconnected", "terminated"].includes(error?.problem))
        return "gone";
    return "failed";
}

/** The sentence of an error: what the daemon said, with a capital letter. */
export function sentence(error) {
    const text = String(error?.message || error?.problem || error || "").trim();
    return text ? text[0].toUpperCase() + text.slice(1) : "";
}

/** Why virtnotify-control is not on the bus, from what systemd says of its unit: `absent`, `failed` or `stopped`. */
export function whyGone(unit) {
    if (!unit || unit.load === "not-found")
        return "absent";
    return unit.active === "failed" ? "failed" : "stopped";
}

/** Why virtnotifyd is not heard, from what systemd says of its unit: as above, or `silent` while it starts, or is not known to have ended. */
export function whySilent(unit) {
    return !unit || unit.load === "not-found" || ["failed", "inactive"].includes(unit.active) ? whyGone(unit) : "silent";
}

/** Whether systemd can start it: `failed` or `stopped`. */
export function canStart(why) {
    return why === "failed" || why === "stopped";
}
