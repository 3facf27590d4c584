// SPDX-License-Identifier: LGPL-2.1-or-later
// The pictures of docs/operator/cockpit.md: `npm run screenshots -- FOLDER`.

import { join, resolve } from "node:path";

import { Stage } from "./stage.js";

const folder = resolve(process.argv[2] ?? ".");
const MIB = 1 << 20;
const MINUTE = 60000;
/** How many times in the hour that is shown a guest writes, and how much. */
const WRITES = [60, 80, 40, 700, 900, 620, 90, 60, 30, 50, 400, 380, 60, 70, 900, 1100, 300, 80, 60, 90];

/** An hour in which guests write: its clock goes in steps. */
async function anHour(stage, page) {
    await page.locator("[data-pool=vms]").first().waitFor();
    for (const mib of WRITES) {
        await stage.mock("Grow", "sst", "vms", "db1-root", mib * MIB);
        await stage.mock("Rate", "st", "vms", 2 * MIB);
        await page.clock.fastForward(60 * MINUTE / WRITES.length);
        await page.waitForTimeout(150);
    }
    await stage.mock("Warn", "ss", "mail", "its disk on /dev/notify/vms/mail-root has neither cache='none' nor cache='directsync': " +
        "when the pool is full, the guest gets I/O errors instead of being paused");
}

async function open(stage, options) {
    const page = await stage.page({ path: "none", ...options });
    await page.clock.install({ time: Date.now() - 60 * MINUTE });
    await page.reload();
    await anHour(stage, page);
    return page;
}

async function show(page, path, wanted) {
    await page.evaluate(to => { window.location.hash = `#/${to}`; }, path);
    await page.locator(wanted).first().waitFor();
    await page.waitForTimeout(600);
}

/** Takes a picture as tall as the page's content is. */
async function take(page, name, width = 1280) {
    await page.setViewportSize({ width, height: 400 });
    const height = await page.evaluate(() => document.querySelector(".pf-v6-c-page__main").scrollHeight);
    await page.setViewportSize({ width, height: Math.min(1700, height + 30) });
    await page.waitForTimeout(400);
    await page.screenshot({ path: join(folder, `${name}.png`) });
}

async function dialog(page, name) {
    await page.setViewportSize({ width: 1280, height: 720 });
    await page.waitForTimeout(400);
    await page.screenshot({ path: join(folder, `${name}.png`) });
}

const stage = await Stage.open();
try {
    const page = await open(stage, {});
    await page.click("#move");
    await page.fill("#move-domain", "mail");
    await page.getByRole("dialog").getByRole("button", { name: "Show the plan" }).click();
    await page.locator("#plan").waitFor();
    await dialog(page, "plan");
    await page.getByRole("dialog").getByRole("button", { name: "Move" }).click();
    await page.locator("#activity").waitFor();
    for (let n = 0; n < 3; n += 1) {
        await stage.mock("StepMoves", "t", 500 * MIB);
        await page.clock.fastForward(4000);
        await page.waitForTimeout(300);
    }
    await take(page, "overview");
    await show(page, "pool/vms", "#volumes");
    await page.locator("[data-row='db1-root']").getByRole("button").click();
    await page.getByRole("menuitem", { name: "Where VM db1 may be" }).click();
    await page.check("#pin-here");
    await dialog(page, "pin");
    await page.getByRole("dialog").getByRole("button", { name: "Save" }).click();
    await page.locator("[data-vm=db1]").getByText("Pinned").waitFor();
    await take(page, "pool");
    await page.emulateMedia({ colorScheme: "dark" });
    await take(page, "pool-dark");
    await take(page, "pool-narrow-dark", 400);
    await page.emulateMedia({ colorScheme: "light" });
    await page.locator("[data-row='web1-root@monday']").getByRole("button").click();
    await page.getByRole("menuitem", { name: "Roll back to it" }).click();
    await page.locator("#roll-back").waitFor();
    await dialog(page, "roll-back");
    await page.keyboard.press("Escape");
    await show(page, "pool/vms/map/mail-root", "#map-now");
    await page.click("#defragment");
    await page.locator("#activity").waitFor();
    await page.waitForTimeout(500);
    await stage.mock("StepJobs", "t", 600 * MIB);
    await page.locator("#map-before").waitFor();
    await take(page, "map");
    await show(page, "", "[data-pool=vms]");
    await stage.mock("StepMoves", "t", 10 * 1024 * MIB);
    await page.locator("#results").waitFor();
    await page.emulateMedia({ colorScheme: "dark" });
    await take(page, "overview-dark");
    await page.emulateMedia({ colorScheme: "light" });
    await take(page, "overview-narrow", 400);
    const german = await open(stage, { language: "de" });
    await take(german, "overview-german");
    await stage.stopDaemon();
    await page.locator("#stopped").waitFor();
    await dialog(page, "stopped");
} finally {
    await stage.close();
}
