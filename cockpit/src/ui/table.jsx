// SPDX-License-Identifier: LGPL-2.1-or-later
// A table that becomes a list of cards on a narrow screen.

import "@patternfly/react-styles/css/components/Table/table.css";
import "@patternfly/react-styles/css/components/Table/table-grid.css";

/** `columns` are names, "" for one of buttons; a row has a key, cells, and perhaps a depth. The first cell is its heading. */
export function Table({ label, columns, rows, id }) {
    return (
        <table className="pf-v6-c-table pf-m-grid-md pf-m-compact" aria-label={label} id={id} role="grid">
            <thead className="pf-v6-c-table__thead">
                <tr className="pf-v6-c-table__tr">
                    {columns.map((name, at) => name
                        ? <th key={at} className="pf-v6-c-table__th pf-m-wrap" scope="col">{name}</th>
                        : <td key={at} className="pf-v6-c-table__td" />)}
                </tr>
            </thead>
            <tbody className="pf-v6-c-table__tbody">
                {rows.map(({ key, cells, depth = 0 }) =>
                    <tr key={key} className="pf-v6-c-table__tr" data-row={key}>
                        {cells.map((cell, at) =>
                            <td key={at} data-label={at > 0 && columns[at] ? columns[at] : undefined} className={`pf-v6-c-table__td ${columns[at] ? "" : "pf-v6-c-table__action"}`}
                                style={at === 0 && depth ? { "--depth": depth } : undefined}>
                                {at === 0 && depth > 0 ? <span className="branch">{cell}</span> : cell}
                            </td>)}
                    </tr>)}
            </tbody>
        </table>
    );
}
