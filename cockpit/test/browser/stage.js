// SPDX-License-Identifier: LGPL-2.1-or-later
// A host for the page: a bus of its own, a daemon on it that is a mock, cockpit-ws, and a browser.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

const HERE = dirname(fileURLToPath(import.meta.url));
const DIST = join(HERE, "../../dist");
const COCKPIT_WS = ["/usr/lib/cockpit/cockpit-ws", "/usr/libexec/cockpit-ws"];
const CHROMIUM = ["/usr/bin/chromium", "/usr/bin/chromium-browser"];
const NOBODY = 65534;

const present = paths => paths.find(path => existsSync(path));

/** What of the machine's programs is missing; an empty list where the tests can run. */
export function missing() {
    const wanted = { "cockpit-ws": COCKPIT_WS, "cockpit-bridge": ["/usr/bin/cockpit-bridge"], chromium: CHROMIUM, "dbus-daemon": ["/usr/bin/dbus-daemon"] };
    return Object.entries(wanted).filter(([, paths]) => !present(paths)).map(([name]) => name);
}

/** The browser that this machine has. */
export function browserPath() {
    return present(CHROMIUM);
}

async function freePort() {
    const server = createServer().listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address();
    server.close();
    await once(server, "close");
    return port;
}

/** The first line that a process prints. */
async function firstLine(child) {
    const lines = createInterface({ input: child.stdout });
    const ended = once(child, "exit").then(([code]) => { throw new Error(`it ended with ${code}: ${child.spawnargs.join(" ")}`); });
    const line = await Promise.race([once(lines, "line").then(([text]) => text), ended]);
    ended.catch(() => { /* It ends with the stage. */ });
    return line;
}

export class Stage {
    #children = [];
    #directory = mkdtempSync(join(tmpdir(), "virtnotify-cockpit-"));

    /** `isRoot` is whether the session of Cockpit may change things; `isAlive` has the mock go on by the clock. */
    static async open({ isRoot = true, isAlive = false, withDaemon = true } = {}) {
        const stage = new Stage();
        try {
            await stage.#open({ isRoot, isAlive, withDaemon });
        } catch (error) {
            await stage.close();
            throw error;
        }
        return stage;
    }

    #spawn(program, args, options = {}) {
        const child = spawn(program, args, { stdio: ["ignore", "pipe", process.env.DEBUG ? "inherit" : "ignore"], ...options });
        this.#children.push(child);
        return child;
    }

    async #open({ isRoot, isAlive, withDaemon }) {
        chmodSync(this.#directory, 0o755);
        this.address = `unix:path=${this.#directory}/bus`;
        const config = join(this.#directory, "bus.conf");
        writeFileSync(config, `<busconfig><type>system</type><listen>${this.address}</listen><policy context='default'>` +
            "<allow send_destination='*' eavesdrop='true'/><allow eavesdrop='true'/><allow own='*'/><allow user='*'/></policy></busconfig>");
        await firstLine(this.#spawn("dbus-daemon", ["--config-file", config, "--nofork", "--print-address"]));
        chmodSync(join(this.#directory, "bus"), 0o777);
        this.isAlive = isAlive;
        if (withDaemon)
            await this.startDaemon();
        const share = join(this.#directory, "share");
        mkdirSync(join(share, "cockpit"), { recursive: true });
        cpSync(DIST, join(share, "cockpit/virtnotify"), { recursive: true });
        this.port = await freePort();
        const identity = isRoot ? {} : { uid: NOBODY, gid: NOBODY };
        const env = {
            ...process.env, DBUS_SYSTEM_BUS_ADDRESS: this.address, XDG_DATA_HOME: share, HOME: this.#directory,
            XDG_RUNTIME_DIR: this.#directory, LC_ALL: "C.UTF-8",
        };
        const options = ["--no-tls", "--address=127.0.0.1", `--port=${this.port}`, "--local-session=/usr/bin/cockpit-bridge"];
        this.#spawn(present(COCKPIT_WS), options, { env, ...identity });
        await this.#answers();
    }

    async #answers() {
        const deadline = Date.now() + 20000;
        for (;;) {
            const answer = await fetch(`http://127.0.0.1:${this.port}/`).catch(() => null);
            if (answer)
                return;
            if (Date.now() > deadline)
                throw new Error("cockpit-ws does not answer");
            await new Promise(resolve => setTimeout(resolve, 100));
        }
    }

    async startDaemon() {
        const args = [join(HERE, "mock.py"), ...(this.isAlive ? ["--alive"] : []), this.address];
        this.daemon = this.#spawn("/usr/bin/python3", ["-B", ...args]);
        await firstLine(this.daemon);
    }

    /** systemd says of virtnotify-control's unit, and of virtnotifyd's, that it is `absent`, `failed`, `inactive` or `active`, and can start it. */
    async startSystemd(state, storage = "active") {
        this.systemd = this.#spawn("/usr/bin/python3", ["-B", join(HERE, "mock.py"), "--systemd", state, "--storage", storage, this.address]);
        await firstLine(this.systemd);
    }

    async stopDaemon() {
        this.daemon.kill("SIGKILL");
        await once(this.daemon, "exit");
    }

    /** A daemon as at the beginning, and no systemd. */
    async fresh() {
        for (const child of [this.systemd, this.daemon])
            if (child && child.exitCode === null && child.signalCode === null) {
                child.kill("SIGKILL");
                await once(child, "exit");
            }
        await this.startDaemon();
    }

    /** Has the mock do something: `mock("Grow", "sst", "vms", "disk", 4096)`. */
    async mock(method, signature = "", ...args) {
        const words = [`--address=${this.address}`, "call", "org.virtnotify1", "/mock", "org.virtnotify1.Mock", method];
        const child = spawn("busctl", [...words, ...(signature ? [signature, ...args.map(String)] : [])], { stdio: "inherit" });
        const [code] = await once(child, "exit");
        if (code !== 0)
            throw new Error(`the mock refuses ${method}`);
    }

    async browser() {
        this.chromium ??= await chromium.launch({ executablePath: browserPath(), args: ["--no-sandbox"] });
        return this.chromium;
    }

    /** A page of its own: `path` is the part of it. */
    async page({ path = "", language = "en", scheme = "light", width = 1280, height = 900 } = {}) {
        const browser = await this.browser();
        const context = await browser.newContext({ locale: language, colorScheme: scheme, viewport: { width, height } });
        await context.addCookies([{ name: "CockpitLang", value: language === "en" ? "en-us" : language, url: `http://127.0.0.1:${this.port}` }]);
        const page = await context.newPage();
        page.setDefaultTimeout(15000);
        page.problems = [];
        page.on("pageerror", error => page.problems.push(String(error)));
        // Older Cockpits lack the variable fonts, and have the others.
        page.on("console", message => message.type() === "error" && !message.location().url.endsWith(".woff2") && page.problems.push(message.text()));
        await page.goto(`http://127.0.0.1:${this.port}/cockpit/@localhost/virtnotify/index.html#/${path}`);
        return page;
    }

    async close() {
        await this.chromium?.close();
        for (const child of this.#children.filter(each => each.exitCode === null && each.signalCode === null)) {
            child.kill("SIGTERM");
            await once(child, "exit");
        }
        rmSync(this.#directory, { recursive: true, force: true });
    }
}
