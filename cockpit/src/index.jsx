// SPDX-License-Identifier: LGPL-2.1-or-later
import "@patternfly/react-core/dist/styles/base.css";
import "./page.css";

import { createRoot } from "react-dom/client";

import cockpit from "./cockpit.js";
import { Daemon } from "./daemon.js";
import { setLanguage } from "./model/sizes.js";
import { followTheme } from "./theme.js";
import { App } from "./ui/app.jsx";

followTheme();
setLanguage(cockpit.language ?? "en");
document.documentElement.lang = (cockpit.language ?? "en").replace("_", "-");
const permission = cockpit.permission({ admin: true });
const daemon = new Daemon(cockpit);
// Other rights are another channel to the bus.
permission.addEventListener("changed", () => daemon.open());
daemon.open();
createRoot(document.getElementById("app")).render(<App daemon={daemon} permission={permission} />);
