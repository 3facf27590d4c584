// SPDX-License-Identifier: LGPL-2.1-or-later
// Builds the page into dist/: `npm run build`, or `npm run build -- --watch`.

import { cpSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

import * as esbuild from "esbuild";

import * as po from "./po.js";

const TOP = dirname(fileURLToPath(import.meta.url));
const DIST = join(TOP, "dist");

/** Cockpit serves the fonts (src/page.css names them); pictures of PatternFly are for pages that have backgrounds. */
const withoutAssets = {
    name: "without-assets",
    setup(build) {
        build.onLoad({ filter: /[/\\]styles[/\\]base\.css$/ }, ({ path }) => {
            const css = readFileSync(path, "utf8").replaceAll(/@font-face\s*\{[^}]*\}/g, "").replaceAll(/url\("\.\/assets\/[^"]*"\)/g, "none");
            return { contents: css, loader: "css" };
        });
    },
};

/** PatternFly's styles of components that the page does not have are left out. */
function onlyStylesOf(used) {
    const setup = build => build.onLoad({ filter: /[/\\]react-styles[/\\]css[/\\].*\.css$/ }, ({ path }) => {
        const owner = path.replace(/\.css$/, ".mjs");
        return used.has(relative(TOP, owner)) || path.includes("Table") ? undefined : { contents: "", loader: "css" };
    });
    return { name: "only-used-styles", setup };
}

/** The modules of which something is in the script. */
async function usedModules() {
    const { metafile } = await esbuild.build({ ...options, write: false, metafile: true });
    const script = Object.entries(metafile.outputs).find(([name]) => name.endsWith(".js"))[1];
    return new Set(Object.entries(script.inputs).filter(([, { bytesInOutput }]) => bytesInOutput > 0).map(([name]) => name));
}

const options = {
    absWorkingDir: TOP,
    entryPoints: { index: "src/index.jsx" },
    outdir: DIST,
    bundle: true,
    minify: true,
    legalComments: "linked",
    format: "iife",
    target: ["es2022"],
    jsx: "automatic",
    define: { "process.env.NODE_ENV": '"production"' },
    external: ["../../static/*"],
    plugins: [withoutAssets],
    logLevel: "warning",
};

function copy() {
    for (const name of ["index.html", "manifest.json"])
        cpSync(join(TOP, "src", name), join(DIST, name));
    for (const file of readdirSync(join(TOP, "po")).filter(name => name.endsWith(".po"))) {
        const language = file.slice(0, -3);
        const entries = po.parse(readFileSync(join(TOP, "po", file), "utf8"));
        writeFileSync(join(DIST, `po.${language}.js`), po.script(entries, language));
        const label = entries.filter(({ id }) => id === "" || id === "Thin storage");
        writeFileSync(join(DIST, `po.manifest.${language}.js`), po.script(label, language));
    }
}

rmSync(DIST, { recursive: true, force: true });
mkdirSync(DIST);
copy();
options.plugins.push(onlyStylesOf(await usedModules()));
if (process.argv.includes("--watch")) {
    const context = await esbuild.context(options);
    await context.watch();
} else {
    await esbuild.build(options);
}
