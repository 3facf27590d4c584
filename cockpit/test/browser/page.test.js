// SPDX-License-Identifier: LGPL-2.1-or-later
// The page in a browser, in a real Cockpit, with a daemon that is a mock.

import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";

import { Stage, missing } from "./stage.js";

const lacking = missing();
if (lacking.length)
    throw new Error(`these are not installed: ${lacking.join(", ")}`);

const MIB = 1 << 20;
const GIB = 1 << 30;

let stage;
let pages = [];

before(async () => { stage = await Stage.open(); });
after(() => stage.close());
afterEach(async () => {
    const all = pages;
    pages = [];
    for (const page of all)
        await page.context().close();
    for (const page of all)
        assert.deepEqual(page.problems, [], "the page has thrown nothing");
    await stage.fresh();
});

async function open(options) {
    const page = await stage.page(options);
    pages.push(page);
    return page;
}

const card = (page, pool) => page.locator(`[data-pool="${pool}"]`);
const row = (page, name) => page.locator(`[data-row="${name}"]`);
const event = (page, member) => page.locator(`[data-event="${member}"]`).first();

/** Waits until an element has a text. */
async function has(locator, text) {
    // Between a number and its unit the page has a space that does not break.
    const wanted = text instanceof RegExp ? new RegExp(text.source.replaceAll(" ", "\\s+")) : text;
    await locator.filter({ hasText: wanted }).first().waitFor();
}

async function choose(page, volume, item) {
    await row(page, volume).getByRole("button").click();
    await page.getByRole("menuitem", { name: item }).click();
}

test("the overview shows what there is, and what changes", async () => {
    const page = await open();
    await has(card(page, "vms"), /22\.5 GiB of 40 GiB used, 17\.5 GiB left/);
    await has(card(page, "vms"), "low mark at 4 GiB left");
    await has(card(page, "vms"), /db1-root db1\s*14 GiB/);
    await has(card(page, "spare"), "virsh pool-start spare");
    await has(page.locator("body"), "virtnotify 0.1.0");
    await stage.mock("Grow", "sst", "vms", "mail-root", GIB);
    await has(card(page, "vms"), /23\.5 GiB of 40 GiB used/);
    await card(page, "vms").getByRole("img", { name: /Use of pool vms since/ }).waitFor();
    await stage.mock("Grow", "sst", "vms", "mail-root", 13 * GIB);
    await has(card(page, "vms"), "Low");
    await has(page.locator(".pf-v6-c-alert"), "Add space, or let VMs move, today.");
    await has(event(page, "SpaceLow"), "Add space, or let VMs move, today.");
    await stage.mock("Grow", "sst", "vms", "mail-root", 9 * GIB);
    await has(card(page, "vms"), "Full");
    await has(page.locator(".pf-v6-c-alert"), "They are paused and lose nothing.");
    await has(event(page, "SpaceExhausted"), "9 GiB");
    await stage.mock("Warn", "ss", "mail", "its disk has no cache='none'");
    await has(event(page, "Warning"), "Give the disk cache='none'.");
    await stage.mock("Damage", "ss", "vms", "the metadata is damaged");
    await has(event(page, "Damage"), "Do not reboot, do not stop VMs.");
});

test("the curve shows the last day, and the week when it is asked for", async () => {
    const page = await open();
    const line = () => card(page, "vms").locator(".curve-line").getAttribute("d");
    await page.locator("#curve-vms-7").waitFor();
    const [day, began] = [await line(), await card(page, "vms").locator("figcaption").textContent()];
    assert.ok(day.split("L").length > 1000, `${day.length}`);
    assert.equal(day.split("M").length, 2, "nothing is missing");
    await page.click("#curve-vms-7");
    await page.waitForFunction(before => document.querySelector("[data-pool=vms] figcaption").textContent !== before, began);
    assert.equal((await line()).split("M").length, 3, "a night is missing");
});

test("a host without pools says how one is made", async () => {
    const page = await open();
    await card(page, "vms").waitFor();
    await stage.mock("Empty");
    await has(page.locator("#no-pools"), "virsh pool-define-as");
});

test("a snapshot is taken, rolled back and deleted", async () => {
    const page = await open({ path: "pool/vms" });
    await row(page, "web1-root").waitFor();
    await choose(page, "mail-root", "Take a snapshot");
    await page.fill("#snapshot-name", "no name");
    await page.getByRole("dialog").getByRole("button", { name: "Take snapshot" }).click();
    await has(page.getByRole("dialog"), "is no name of a snapshot");
    await page.fill("#snapshot-name", "before");
    await page.getByRole("dialog").getByRole("button", { name: "Take snapshot" }).click();
    await has(row(page, "mail-root@before"), "@before");
    await stage.mock("Grow", "sst", "vms", "mail-root", GIB);
    await has(row(page, "mail-root"), "5 GiB of 30 GiB");

    await choose(page, "mail-root@before", "Roll back to it");
    const dialog = page.getByRole("dialog");
    await has(dialog, /All that was written to mail-root in the last .* is lost/);
    await has(dialog, "5 GiB that no snapshot has are lost for good");
    const go = dialog.getByRole("button", { name: "Roll back" });
    assert.equal(await go.isDisabled(), true, "nothing is rolled back by one click");
    await page.check("#roll-back-sure");
    await go.click();
    await has(row(page, "mail-root"), "4 GiB of 30 GiB");

    await choose(page, "mail-root@before", "Delete");
    await dialog.getByRole("button", { name: "Delete" }).click();
    await row(page, "mail-root@before").waitFor({ state: "detached" });
});

test("what the daemon refuses is said in the dialog, and nothing is lost", async () => {
    const page = await open({ path: "pool/vms" });
    await row(page, "db1-root@nightly").waitFor();
    await choose(page, "db1-root@nightly", "Roll back to it");
    await page.check("#roll-back-sure");
    await page.getByRole("dialog").getByRole("button", { name: "Roll back" }).click();
    await has(page.getByRole("dialog"), "The volume 'db1-root' is in use");
    await page.keyboard.press("Escape");
    await page.getByRole("dialog").waitFor({ state: "detached" });
});

test("snapshots of several volumes are one call", async () => {
    const page = await open({ path: "pool/vms" });
    await page.click("#take");
    await page.uncheck("#take-web1-copy");
    await page.fill("#snapshot-name", "all");
    await page.getByRole("dialog").getByRole("button", { name: "Take snapshot" }).click();
    for (const name of ["db1-root@all", "mail-root@all", "web1-root@all"])
        await row(page, name).waitFor();
    assert.equal(await row(page, "web1-copy@all").count(), 0);
});

test("a job shows its course and is cancelled", async () => {
    const page = await open({ path: "pool/vms" });
    await page.click("#pool-menu");
    await page.getByRole("menuitem", { name: "Reclaim space" }).click();
    await page.check("#reclaim-zeroes");
    await page.getByRole("dialog").getByRole("button", { name: "Reclaim" }).click();
    await has(page.locator("#activity"), "Reclaim zeroes vms");
    await stage.mock("StepJobs", "t", 128 * MIB);
    await has(page.locator("#activity"), /256 MiB of 1 GiB · .*\/s · .* left/);
    await page.getByRole("button", { name: "Cancel: Reclaim zeroes vms" }).click();
    await has(page.locator("#activity"), "Cancelled; what it did stays");
});

test("a policy is changed in a form, and a wrong value is refused in it", async () => {
    const page = await open({ path: "pool/vms" });
    const dialog = page.getByRole("dialog");
    const policy = async () => {
        await page.click("#pool-menu");
        await page.getByRole("menuitem", { name: "Policy" }).click();
    };
    await policy();
    assert.equal(await page.inputValue("#policy-low-mark"), "10%");
    assert.equal(await page.inputValue("#policy-overcommit"), "4");
    assert.equal(await dialog.getByRole("button", { name: "Save" }).isDisabled(), true, "nothing is changed");
    await page.fill("#policy-low-mark", "much");
    await dialog.getByRole("button", { name: "Save" }).click();
    await has(dialog, "Malformed low-mark");
    await page.fill("#policy-low-mark", "20%");
    await page.selectOption("#policy-when-full", "pause");
    await page.fill("#policy-overcommit", "");
    await page.uncheck("#policy-movable");
    await dialog.getByRole("button", { name: "Save" }).click();
    await dialog.waitFor({ state: "detached" });
    await policy();
    await page.locator("#policy-low-mark[value='20%']").waitFor();
    assert.deepEqual(await Promise.all(["when-full", "overcommit"].map(name => page.inputValue(`#policy-${name}`))), ["pause", ""]);
    assert.equal(await page.isChecked("#policy-movable"), false);
});

test("volumes are created, cloned and resized, and a VM is kept here", async () => {
    const page = await open({ path: "pool/vms" });
    const dialog = page.getByRole("dialog");
    await page.click("#create");
    await page.fill("#create-name", "mail-root");
    await page.fill("#create-size", "many");
    assert.equal(await dialog.getByRole("button", { name: "Create" }).isDisabled(), true);
    await page.fill("#create-size", "10 GiB");
    await dialog.getByRole("button", { name: "Create" }).click();
    await has(dialog, "There is a volume 'mail-root' already");
    await page.fill("#create-name", "data");
    await page.keyboard.press("Enter");
    await has(row(page, "data"), "0 B of 10 GiB");
    await choose(page, "web1-root@monday", "Clone");
    await page.fill("#clone-name", "web2-root");
    await page.keyboard.press("Enter");
    await has(row(page, "web2-root"), "6 GiB of 20 GiB");
    await choose(page, "data", "Resize");
    await page.fill("#resize-size", "5 GiB");
    assert.equal(await dialog.getByRole("button", { name: "Resize" }).isDisabled(), true, "nothing is lost by one click");
    await page.check("#resize-sure");
    await dialog.getByRole("button", { name: "Resize" }).click();
    await has(row(page, "data"), "0 B of 5 GiB");
    await choose(page, "data", "Reclaim space");
    await has(page.locator("#activity"), "Reclaim data");
    const vm = row(page, "db1-root").locator("[data-vm=db1]");
    await has(vm, "db1");
    assert.equal(await vm.getByText("Pinned").count(), 0);
    await choose(page, "db1-root", "Where VM db1 may be");
    await page.locator("#pin-free:checked").waitFor();
    assert.equal(await dialog.getByRole("button", { name: "Save" }).isDisabled(), true, "nothing is changed");
    await page.check("#pin-here");
    await dialog.getByRole("button", { name: "Save" }).click();
    await has(vm, "Pinned");
    await choose(page, "db1-root", "Where VM db1 may be");
    await page.locator("#pin-here:checked").waitFor();
});

test("what happened before the page was opened is there", async () => {
    const page = await open();
    await has(event(page, "Resumed"), "VM mail runs again; it was paused for want of space");
    await has(page.getByText("All since"), ":");
    await page.evaluate(() => { window.location.hash = "#/pool/archive"; });
    await has(event(page, "PoolStarted"), "Pool archive was started");
    assert.equal(await event(page, "Resumed").count(), 0, "it is another pool's");
});

test("a volume is deleted with its snapshots, when that is said", async () => {
    const page = await open({ path: "pool/vms" });
    const dialog = page.getByRole("dialog");
    await row(page, "web1-root").waitFor();
    await choose(page, "web1-root", "Delete");
    await has(dialog, "All 6 GiB that it holds are lost.");
    await has(dialog, "2 snapshots of it are lost as well.");
    assert.equal(await dialog.getByRole("button", { name: "Delete" }).isDisabled(), true, "nothing is lost by one click");
    await page.check("#delete-sure");
    await dialog.getByRole("button", { name: "Delete" }).click();
    await row(page, "web1-root@monday").waitFor({ state: "detached" });
    await row(page, "web1-copy").waitFor();
    await choose(page, "db1-root", "Delete");
    await page.check("#delete-sure");
    await dialog.getByRole("button", { name: "Delete" }).click();
    await has(dialog, "Volume 'db1-root' is still in use.");
});

test("a disk is emptied, and a job that fails says why", async () => {
    const page = await open({ path: "pool/vms" });
    await page.click("#pool-menu");
    await page.getByRole("menuitem", { name: "Empty a disk" }).click();
    await page.locator("#evacuate-group[value='vg-vms']").waitFor();
    await page.fill("#evacuate-device", "/dev/sdb");
    await has(page.getByRole("dialog"), "vgreduce vg-vms /dev/sdb");
    await page.getByRole("dialog").getByRole("button", { name: "Empty disk" }).click();
    await has(page.locator("#activity"), "Evacuate /dev/sdb");
    await stage.mock("FailJob", "s", "the other disks lack 3 GiB");
    await has(page.locator("#activity"), "the other disks lack 3 GiB");
});

test("the map is drawn before and after defragmentation", async () => {
    const page = await open({ path: "pool/vms" });
    await row(page, "mail-root").waitFor();
    await choose(page, "mail-root", "Show where it lies");
    const runs = id => page.locator(id).getAttribute("data-runs").then(Number);
    await page.locator("#map-now rect").nth(20).waitFor();
    assert.ok(await runs("#map-now") > 20);
    await page.click("#defragment");
    await has(page.locator("#activity"), "Defragment mail-root");
    await stage.mock("StepJobs", "t", 200 * MIB);
    await has(page.locator("#activity"), "200 MiB of 512 MiB");
    await stage.mock("StepJobs", "t", 512 * MIB);
    await page.locator("#map-before").waitFor();
    assert.ok(await runs("#map-before") > 20);
    assert.equal(await runs("#map-now"), 1);
});

test("a move is planned, begins, and is cancelled", async () => {
    const page = await open();
    const dialog = page.getByRole("dialog");
    await page.click("#move");
    await page.fill("#move-domain", "nobody");
    await dialog.getByRole("button", { name: "Show the plan" }).click();
    await has(dialog, "There is no such VM: 'nobody'");
    await page.fill("#move-domain", "web1");
    await page.keyboard.press("Enter");
    await has(page.locator("#plan"), "VM web1 would stay here");
    assert.equal(await dialog.getByRole("button", { name: "Move" }).isDisabled(), true);
    await page.fill("#move-domain", "mail");
    await page.keyboard.press("Enter");
    await has(page.locator("#plan"), "VM mail would go to host2");
    await has(page.locator("#plan"), /4 GiB are copied; that takes about 40 s/);
    await has(row(page, "plan-host3"), "no: its pool 'vms' has room for 2 GiB only");
    assert.equal(await page.locator("#activity").count(), 0, "a plan moves nothing");
    await dialog.getByRole("button", { name: "Move" }).click();
    await has(page.locator("#activity"), "VM mail moves to host2");
    await has(page.locator("#activity"), "is prepared");
    await stage.mock("StepMoves", "t", GIB);
    await has(page.locator("#activity"), "1 GiB of 5 GiB");
    await page.getByRole("button", { name: "Cancel: VM mail moves to host2" }).click();
    await has(event(page, "MoveFailed"), "VM mail was not moved to host2: it was cancelled");
    await has(page.locator("#results [data-vm=mail]"), "Stayed");
    await has(page.locator("#results [data-vm=mail]"), "it was cancelled");
});

test("a VM that waits is shown with its reason, and moved", async () => {
    const page = await open();
    await stage.mock("Wait", "ss", "db1", "no peer has room for it");
    await has(page.locator("#waiting"), "no peer has room for it");
    await page.click("#retry");
    await has(page.locator("#waiting"), "db1 still waits: no peer has room for it still");
    await page.getByRole("button", { name: "Move db1" }).click();
    assert.equal(await page.inputValue("#move-domain"), "db1");
    await page.selectOption("#move-to", "host2");
    await page.getByRole("dialog").getByRole("button", { name: "Show the plan" }).click();
    await row(page, "plan-host2").waitFor();
    assert.equal(await row(page, "plan-host3").count(), 0);
    await page.getByRole("dialog").getByRole("button", { name: "Move" }).click();
    await has(page.locator("#activity"), "VM db1 moves to host2");
    await stage.mock("StepMoves", "t", 20 * GIB);
    await has(event(page, "MoveFinished"), "VM db1 runs on host2");
    await has(page.locator("#results [data-vm=db1]"), "db1 → host2");
});

test("peers are shown as they are, and a host is emptied", async () => {
    const page = await open();
    await has(page.locator("#peers"), /host2.*vms: 70 GiB of 100 GiB left/);
    await stage.mock("FailPeer", "ss", "host3", "it does not answer");
    await has(page.locator("#peers"), "it does not answer");
    await has(event(page, "PeerFailed"), "No VM can move to host3: it does not answer");
    await page.click("#drain-button");
    await page.getByRole("dialog").getByRole("button", { name: "Empty this host" }).click();
    await page.locator("#drained").waitFor();
    await page.click("#drain-button");
    await page.getByRole("dialog").getByRole("button", { name: "Let them come" }).click();
    await page.locator("#drained").waitFor({ state: "detached" });
    await stage.mock("WithoutPeers");
    await has(page.locator("#peers"), "No peer is named");
});

test("a daemon that goes away is missed, and one that comes back is found", async () => {
    const page = await open();
    await card(page, "vms").waitFor();
    await stage.stopDaemon();
    await has(page.locator("#stopped"), "systemctl start virtnotify-control");
    await has(page.locator("#stopped"), "VMs go on and volumes grow");
    await stage.startDaemon();
    await card(page, "vms").waitFor();
});

test("a host without virtnotify says so", async () => {
    await stage.stopDaemon();
    await stage.startSystemd("absent");
    const page = await open();
    await has(page.locator("#absent"), "Install the package virtnotify");
});

test("a daemon that failed is started from the page", async () => {
    await stage.stopDaemon();
    await stage.startSystemd("failed");
    const page = await open();
    await has(page.locator("#stopped"), "journalctl -u virtnotify-control -n 20");
    await page.getByRole("button", { name: "Start virtnotify-control" }).click();
    await card(page, "vms").waitFor();
});

test("where neither daemon runs both are started", async () => {
    await stage.stopDaemon();
    await stage.startSystemd("inactive", "inactive");
    const page = await open();
    await has(page.locator("#stopped"), "systemctl start virtnotifyd virtnotify-control");
    await has(page.locator("#stopped"), "a write to space that a volume did not have yet waits");
    await page.getByRole("button", { name: "Start both" }).click();
    await card(page, "vms").waitFor();
    assert.equal(await page.locator("#storage-gone").count(), 0);
});

test("virtnotifyd that does not run is told of, and started from the page", async () => {
    const page = await open();
    await card(page, "vms").waitFor();
    assert.equal(await page.locator("#storage-gone").count(), 0);
    await stage.startSystemd("active", "failed");
    await stage.mock("Storage", "b", false);
    await has(page.locator("#storage-gone"), "a write to space that a volume did not have yet waits");
    await has(page.locator("#storage-gone"), "journalctl -u virtnotifyd -n 20");
    await has(card(page, "vms"), "22.5 GiB of 40 GiB used");
    await page.getByRole("button", { name: "Start virtnotifyd" }).click();
    await page.locator("#storage-gone").waitFor({ state: "detached" });
});

test("late answers are waited for, and errors shown", async () => {
    await stage.mock("Delay", "u", 1500);
    const page = await open();
    await page.locator("#connecting").waitFor();
    await card(page, "vms").waitFor();
    await stage.mock("Heal");
    await stage.mock("Fail", "sss", "GetManagedObjects", "Failed", "the storage is asleep");
    const other = await open();
    await has(other.locator("#failed"), "The storage is asleep");
});

test("an older daemon lacks what it lacks, and the rest works", async () => {
    for (const [iface, name] of [["Pool", "TimeToFull"], ["Pool", "Policy"], ["Pool", "Promised"], ["Volume", "Exclusive"], ["Volume", "Kind"], ["Volume", "Backing"], ["Volume", "Created"], ["Volume", "Vms"]])
        await stage.mock("Drop", "ss", iface, name);
    await stage.mock("Hide", "s", "Defragment");
    for (const method of ["Events", "Results", "Plan", "History"])
        await stage.mock("Hide", "s", method);
    for (const name of ["Drained", "StorageRuns"])
        await stage.mock("Drop", "ss", "Manager", name);
    await stage.mock("WithoutPeers");
    const page = await open();
    await has(card(page, "vms"), "22.5 GiB of 40 GiB used");
    assert.equal(await page.getByText("Full in").count() + await page.locator("#curve-vms-7").count(), 0);
    assert.equal(await page.locator("#peers").count() + await page.locator("#drain-button").count() + await page.locator("#storage-gone").count(), 0);
    await page.click("#move");
    await page.fill("#move-domain", "mail");
    await page.keyboard.press("Enter");
    await has(page.locator("#activity"), "VM mail moves to host2");
    await card(page, "vms").getByRole("link").click();
    await row(page, "web1-root@monday").waitFor();
    assert.equal(await page.locator("#create").count(), 0);
    await choose(page, "db1-root", "Defragment");
    await has(page.locator(".pf-v6-c-alert"), "older than this page");
    await row(page, "db1-root").getByRole("button").click();
    await page.getByRole("menuitem", { name: "Show where it lies" }).waitFor();
    assert.equal(await page.getByRole("menuitem", { name: "Defragment" }).count(), 0, "it is not offered again");
});

test("the page speaks German", async () => {
    const page = await open({ language: "de" });
    await has(card(page, "vms"), "22,5 GiB von 40 GiB belegt, 17,5 GiB frei");
    await page.getByRole("button", { name: "VM verschieben" }).waitFor();
    assert.equal(await page.locator("html").getAttribute("lang"), "de");
});

test("nothing is wider than a narrow screen, and the dark theme is followed", async () => {
    const page = await open({ width: 360, height: 700, scheme: "dark" });
    for (const path of ["", "pool/vms", "pool/vms/map/mail-root", "pool/spare", "pool/none"]) {
        await page.evaluate(to => { window.location.hash = `#/${to}`; }, path);
        await page.locator("h1").waitFor();
        const [width, shown] = await page.evaluate(() => [document.querySelector(".pf-v6-c-page__main").scrollWidth, window.innerWidth]);
        assert.ok(width <= shown, `${path || "the overview"} is ${width} wide of ${shown}`);
    }
    assert.match(await page.locator("html").getAttribute("class"), /pf-v6-theme-dark/);
    await page.emulateMedia({ colorScheme: "light" });
    await page.locator("html:not(.pf-v6-theme-dark)").waitFor();
});

test("the keyboard is enough to take a snapshot", async () => {
    const page = await open({ path: "pool/vms" });
    await page.locator("#take").waitFor();
    for (let n = 0; n < 10 && await page.evaluate(() => document.activeElement.id) !== "take"; n += 1)
        await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await page.locator("#snapshot-name:focus").waitFor();
    await page.keyboard.press("Control+A");
    await page.keyboard.type("typed");
    await page.keyboard.press("Enter");
    await row(page, "web1-root@typed").waitFor();
    await page.locator("#pool-menu").focus();
    await page.keyboard.press("Enter");
    await page.getByRole("menuitem").first().waitFor();
    const chosen = () => page.evaluate(() => document.activeElement.textContent);
    for (let n = 0; n < 10 && !(await chosen()).startsWith("Reclaim"); n += 1)
        await page.keyboard.press("ArrowDown");
    await page.keyboard.press("Enter");
    await page.locator("#reclaim").waitFor();
});

test("who may not change anything is told so, and sees all the same", async () => {
    const user = await Stage.open({ isRoot: false });
    try {
        const page = await user.page();
        await has(page.locator("#limited"), "Turn on administrative access");
        await has(card(page, "vms"), "22.5 GiB of 40 GiB used");
        assert.equal(await page.locator("#move").getAttribute("aria-disabled"), "true");
        await card(page, "vms").getByRole("link").click();
        await row(page, "db1-root").getByRole("button").click();
        assert.equal(await page.getByRole("menuitem", { name: "Defragment" }).isDisabled(), true);
        await page.evaluate(() => { window.location.hash = "#/pool/vms/map/db1-root"; });
        await has(page.locator(".pf-v6-c-alert"), "You may not do this");
        assert.deepEqual(page.problems, []);
    } finally {
        await user.close();
    }
});
