// SPDX-License-Identifier: LGPL-2.1-or-later
// The catalogues: how they are read, and that nothing is missing in them.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";
import vm from "node:vm";

import * as po from "../po.js";

const here = new URL("..", import.meta.url);
const read = name => readFileSync(new URL(name, here), "utf8");
const sources = ["src", "src/model", "src/ui"].flatMap(folder =>
    readdirSync(new URL(folder, here)).filter(name => /\.jsx?$/.test(name)).map(name => read(`${folder}/${name}`)));

const SAMPLE = `
msgid ""
msgstr ""
"Plural-Forms: nplurals=2; plural=n > 1;\\n"

#: some/where
msgid "one \\"word\\""
msgstr ""
"ein "
"\\"Wort\\""

msgid "$0 run"
msgid_plural "$0 runs"
msgstr[0] "$0 Stück"
msgstr[1] "$0 Stücke"

#, fuzzy
msgid "guessed"
msgstr "geraten"

msgid "open"
msgstr ""
`;

test("a catalogue becomes what Cockpit loads", () => {
    let loaded;
    vm.runInNewContext(po.script(po.parse(SAMPLE), "xx"), { cockpit: { locale: data => { loaded = data; } } });
    // Of another context are the objects, and alike.
    assert.deepEqual(JSON.parse(JSON.stringify({ ...loaded, "": null })), {
        "": null, 'one "word"': [null, 'ein "Wort"'], "$0 run": [null, "$0 Stück", "$0 Stücke"],
    });
    assert.equal(loaded[""].language, "xx");
    assert.equal(Number(loaded[""]["plural-forms"](1)), 0);
    assert.equal(Number(loaded[""]["plural-forms"](2)), 1);
});

test("a plural form that is a program is refused", () => {
    const evil = po.parse('msgid ""\nmsgstr "Plural-Forms: plural=alert(1);\\n"\n');
    assert.throws(() => po.script(evil, "xx"), /no plural form/);
});

test("what is to be translated is found", () => {
    const found = po.messages('a(_("x \\"y\\"")); b(ngettext("$0 run", "$0 runs", n)); no_("z")');
    assert.deepEqual(found, [{ id: 'x "y"', plural: null }, { id: "$0 run", plural: "$0 runs" }]);
});

test("each catalogue has all that the page says, and nothing else", () => {
    const wanted = new Map(sources.flatMap(po.messages).map(({ id, plural }) => [id, plural]));
    assert.ok(wanted.size > 100);
    const { menu } = JSON.parse(read("src/manifest.json"));
    assert.ok(wanted.has(menu.index.label), "the menu's name is translated");
    for (const file of readdirSync(new URL("po", here))) {
        const entries = po.parse(read(`po/${file}`)).filter(({ id }) => id !== "");
        const known = new Map(entries.map(entry => [entry.id, entry]));
        assert.deepEqual([...wanted.keys()].filter(id => !known.has(id)), [], `${file} lacks`);
        assert.deepEqual([...known.keys()].filter(id => !wanted.has(id)), [], `${file} has what nobody says`);
        for (const { id, plural, strings, isFuzzy } of entries) {
            assert.equal(isFuzzy, false, id);
            assert.equal(plural, wanted.get(id), id);
            assert.equal(strings.length, plural ? 2 : 1, id);
            for (const text of strings)
                assert.deepEqual(places(text), places(id), `${id} has other places in ${file}`);
        }
    }
});

function places(text) {
    return [...text.matchAll(/\$\d/g)].map(([place]) => place).sort();
}

test("every sentence in the page can be translated", () => {
    for (const source of sources)
        for (const [, text] of source.matchAll(/>\s*([A-Z][a-z]+ [a-z][^<>{}=]*)</g))
            assert.fail(`'${text.trim()}' is not in _("...")`);
});
