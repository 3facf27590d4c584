// SPDX-License-Identifier: LGPL-2.1-or-later
// The light or dark theme, as the person has chosen it in Cockpit's shell.

const CLASS = "pf-v6-theme-dark";

export function followTheme() {
    const system = window.matchMedia("(prefers-color-scheme: dark)");
    const show = (style = localStorage.getItem("shell:style") ?? "auto") => {
        const isDark = style === "dark" || (style === "auto" && system.matches);
        document.documentElement.classList.toggle(CLASS, isDark);
    };
    window.addEventListener("storage", ({ key }) => key === "shell:style" && show());
    // The shell tells its own frames so.
    window.addEventListener("cockpit-style", ({ detail }) => show(detail?.style));
    system.addEventListener("change", () => show());
    show();
}
