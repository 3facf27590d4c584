// SPDX-License-Identifier: LGPL-2.1-or-later
//! `check`, `dump` and `restore`.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde_json::json;
use virtnotify_engine::repair::{Checked, DumpFrom, Repair as _, RestoreFrom, RestoreRequest};
use zbus::Variant;

use crate::args::{From, Restore, code};
use crate::client::{self, Client, Host, Problem};
use crate::show::{self, out, size, table};

/// The parts of a volume group in the table; they add up to its size.
const ACCOUNT: [(&str, &str); 7] = [
    ("mapped", "in volumes"),
    ("clean", "ready for volumes"),
    ("dirty", "free, not zeroed yet"),
    ("cut-off", "smaller than a chunk"),
    ("metadata", "metadata"),
    ("others", "others' logical volumes"),
    ("free", "free in the volume group"),
];

/// `check`.
pub async fn check(host: Host<'_>, what: &str, json: bool) -> Result<u8, Problem> {
    let checked = match client::any(host).await? {
        Client::Daemon(daemon) => daemon.check(what).await?,
        Client::Here(here) => here.check(&client::group(what)?)?.into_plain(),
    };
    match json {
        true => show::json(&as_json(&checked))?,
        false => out(&as_text(&checked))?,
    }
    Ok(match checked.0 {
        0 => code::FINE,
        1 => code::FINDINGS,
        _ => code::DAMAGE,
    })
}

fn as_json((verdict, vg, pool, id, started, findings, figures): &Checked) -> serde_json::Value {
    let verdict = match verdict {
        0 => "fine",
        1 => "findings",
        _ => "damage",
    };
    let finding = |(severity, kind, text): &(String, String, String)| json!({ "severity": severity, "kind": kind, "text": text });
    let findings: Vec<_> = findings.iter().map(finding).collect();
    let figures: serde_json::Map<_, _> =
        figures.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    json!({
        "verdict": verdict, "vg": vg, "pool": pool, "id": id, "started": started,
        "findings": findings, "figures": figures,
    })
}

fn as_text((_, vg, pool, _, started, findings, figures): &Checked) -> String {
    let figure = |name: &str| figures.iter().find(|(n, _)| n == name).map(|(_, value)| *value);
    let pool = if pool.is_empty() { "a pool" } else { pool };
    let state = if *started { "started" } else { "not started" };
    let mut text = format!("{pool} in the volume group {vg}, {state}\n");
    if let Some(total) = figure("size") {
        let mut rows: Vec<Vec<String>> = Vec::new();
        for (name, label) in ACCOUNT {
            rows.push(vec!["  ".into(), label.into(), size(figure(name).unwrap_or(0))]);
        }
        rows.push(vec!["  ".into(), "the volume group".into(), size(total)]);
        text.push_str(&table(&rows, &[2]));
        let number = |name: &str| figure(name).unwrap_or(0);
        text.push_str(&format!(
            "{} in {}; {} with a device\n",
            show::count(number("volumes-count"), "volume"),
            show::count(number("runs-count"), "run"),
            number("devices-count")
        ));
    }
    if findings.is_empty() {
        text.push_str("nothing is wrong\n");
    }
    for (severity, _, what) in findings {
        text.push_str(&format!("{severity}: {what}\n"));
    }
    text
}

/// `dump`.
pub async fn dump(
    host: Host<'_>,
    what: &str,
    from: From,
    output: Option<&Path>,
    json: bool,
) -> Result<u8, Problem> {
    let text = match client::any(host).await? {
        Client::Daemon(daemon) => daemon.dump(what, from.name()).await?,
        Client::Here(here) => {
            let from = match from {
                From::Metadata => DumpFrom::Metadata,
                From::Kernel => DumpFrom::Kernel,
                From::Backup => DumpFrom::Backup,
            };
            here.dump(&client::group(what)?, from)?
        }
    };
    match output {
        Some(path) => write(path, &text)?,
        None if json => show::json(&json!({ "map": text }))?,
        None => out(&text)?,
    }
    Ok(code::FINE)
}

fn write(path: &Path, text: &str) -> Result<(), Problem> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|e| Problem::Cannot(format!("cannot write '{}': {e}", path.display())))
}

/// `restore`.
pub async fn restore(host: Host<'_>, args: &Restore, json: bool) -> Result<u8, Problem> {
    let asks = show::asks(args.yes, args.dry_run, json)?;
    let map = match &args.from.from {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|e| Problem::Cannot(format!("cannot read '{}': {e}", path.display())))?,
        None => String::new(),
    };
    let client = client::any(host).await?;
    if asks {
        let plan = ask(&client, args, &map, true).await?;
        out(&format!("{}\n", plan.join("\n")))?;
        if !show::agreed(&format!("Write this as the metadata of the pool in '{}'?", args.vg))? {
            return Ok(code::FINDINGS);
        }
    }
    let notes = ask(&client, args, &map, args.dry_run).await?;
    match json {
        true => show::json(&json!({ "notes": notes }))?,
        false => out(&format!("{}\n", notes.join("\n")))?,
    }
    Ok(code::FINE)
}

/// Has the restore done, or only checked.
async fn ask(
    client: &Client,
    args: &Restore,
    map: &str,
    dry: bool,
) -> Result<Vec<String>, Problem> {
    match client {
        Client::Daemon(daemon) => {
            let from = match (args.from.from_kernel, args.from.from_backup) {
                (true, _) => "kernel",
                (_, true) => "backup",
                _ => "map",
            };
            let options =
                [("force", args.force), ("no-archive", args.no_archive), ("dry-run", dry)];
            let options = options.into_iter().map(|(name, on)| (name, Variant::from(on)));
            Ok(daemon.restore(&args.vg, from, map, &args.without, options.collect()).await?)
        }
        Client::Here(here) => Ok(here.restore(&request(args, map, dry)?)?.0),
    }
}

fn request(args: &Restore, map: &str, dry_run: bool) -> Result<RestoreRequest, Problem> {
    let wrong = |e: virtnotify_model::NameError| Problem::Usage(e.to_string());
    let from = match (args.from.from_kernel, args.from.from_backup) {
        (true, _) => RestoreFrom::Kernel,
        (_, true) => RestoreFrom::Backup,
        _ => RestoreFrom::Text(map.to_owned()),
    };
    let without = args.without.iter().map(|name| name.parse().map_err(wrong));
    Ok(RestoreRequest {
        vg: args.vg.parse().map_err(wrong)?,
        from,
        without: without.collect::<Result<_, _>>()?,
        force: args.force,
        no_archive: args.no_archive,
        dry_run,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtnotify_engine::repair::{CheckReport, Finding, Severity};

    fn report() -> Checked {
        let finding = |severity, text: &str| Finding { severity, code: "rule", text: text.into() };
        let report = CheckReport {
            vg: "vg0".into(),
            name: "vms".into(),
            pool: "id".into(),
            started: true,
            findings: vec![finding(Severity::Damage, "it is broken")],
            figures: vec![("size", 1 << 30), ("mapped", 4 << 20), ("volumes-count", 2)],
        };
        report.into_plain()
    }

    #[test]
    fn a_check_is_shown_to_people_and_to_programs() {
        let text = as_text(&report());
        assert!(text.starts_with("vms in the volume group vg0, started\n"), "{text}");
        assert!(text.contains("in volumes") && text.contains(" 4.00 MiB\n"), "{text}");
        assert!(text.ends_with("damage: it is broken\n"), "{text}");
        let json = as_json(&report());
        assert_eq!(
            (&json["verdict"], &json["figures"]["mapped"]),
            (&json!("damage"), &json!(4 << 20))
        );
        assert_eq!(json["findings"][0]["text"], "it is broken");
    }
}
