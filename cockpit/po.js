// SPDX-License-Identifier: LGPL-2.1-or-later
// Reads catalogues of translations (*.po), finds what is to be translated, and writes what Cockpit loads.

/** The entries of a catalogue: `id`, `plural` where there is one, `strings`; the header has the id "". */
export function parse(text) {
    return text.split(/\n\s*\n/).map(readEntry).filter(Boolean);
}

function readEntry(block) {
    const entry = { id: null, plural: null, strings: [], isFuzzy: /^#,.*\bfuzzy\b/m.test(block) };
    let put = null;
    for (const line of block.split("\n").filter(each => !each.startsWith("#"))) {
        const [, key, index, quoted] = line.match(/^(msgid|msgid_plural|msgstr)?(?:\[(\d+)\])?\s*("(?:[^"\\]|\\.)*")\s*$/) ?? [];
        if (!quoted)
            continue;
        if (key === "msgid")
            put = value => { entry.id = (entry.id ?? "") + value; };
        else if (key === "msgid_plural")
            put = value => { entry.plural = (entry.plural ?? "") + value; };
        else if (key === "msgstr")
            put = at(entry.strings, Number(index ?? 0));
        put?.(JSON.parse(quoted));
    }
    return entry.id === null ? null : entry;
}

function at(strings, index) {
    return value => { strings[index] = (strings[index] ?? "") + value; };
}

/** What a source has in `_("...")` and `ngettext("...", "...", n)`, and what the manifest calls the page. */
export function messages(source) {
    const string = String.raw`("(?:[^"\\]|\\.)*")`;
    const one = [...source.matchAll(new RegExp(String.raw`\b_\(${string}\)`, "g"))];
    const two = [...source.matchAll(new RegExp(String.raw`\bngettext\(${string},\s*${string}`, "g"))];
    return [
        ...one.map(([, id]) => ({ id: JSON.parse(id), plural: null })),
        ...two.map(([, id, plural]) => ({ id: JSON.parse(id), plural: JSON.parse(plural) })),
    ];
}

/** The script that Cockpit loads for a language. */
export function script(entries, language) {
    const header = entries.find(({ id }) => id === "")?.strings[0] ?? "";
    const plural = header.match(/^Plural-Forms:.*plural=([^;]+)/m)?.[1] ?? "n != 1";
    if (!/^[n0-9\s%!=<>&|?:()]+$/.test(plural))
        throw new Error(`this is no plural form: ${plural}`);
    const told = entries.filter(({ id, strings, isFuzzy }) => id !== "" && !isFuzzy && strings.length > 0 && strings.every(Boolean));
    const words = told.map(({ id, strings }) => `${JSON.stringify(id)}:${JSON.stringify([null, ...strings])}`);
    return `cockpit.locale({"":{"plural-forms":(n)=>${plural},"language":${JSON.stringify(language)},"language-direction":"ltr"},${words.join(",")}});\n`;
}
