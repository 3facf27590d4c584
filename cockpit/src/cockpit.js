// SPDX-License-Identifier: LGPL-2.1-or-later
// Cockpit's own library, which the host's Cockpit serves.

const { cockpit } = window;

export default cockpit;
export const _ = cockpit.gettext;
export const ngettext = cockpit.ngettext;
export const format = cockpit.format;
