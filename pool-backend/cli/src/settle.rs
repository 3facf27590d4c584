// SPDX-License-Identifier: LGPL-2.1-or-later
//! `settle`: a person says which host has the VM of a move that does not end by itself.

use serde_json::json;
use zbus::Variant;

use crate::args::{Settle, code};
use crate::client::{self, Host, ManagerProxy, Options, Problem};
use crate::show::{self, out};

/// `settle`.
pub async fn run(host: Host<'_>, args: &Settle, json: bool) -> Result<u8, Problem> {
    let asks = show::asks(args.yes, args.dry_run, json)?;
    let daemon = client::daemon(host).await?;
    if asks {
        let what = settle(&daemon, args, true).await?;
        out(&format!("{}\n", to_text(&what)))?;
        if !show::agreed(&format!("Settle the move of '{}' so?", args.domain))? {
            return Ok(code::FINDINGS);
        }
    }
    let what = settle(&daemon, args, args.dry_run).await?;
    match json {
        true => show::json(&json!({ "domain": args.domain, "what": what }))?,
        // It was read before it was agreed to.
        false if asks => out("it is settled\n")?,
        false => out(&format!("{}\n", to_text(&what)))?,
    }
    Ok(code::FINE)
}

async fn settle(
    daemon: &ManagerProxy<'_>,
    args: &Settle,
    dry_run: bool,
) -> Result<String, Problem> {
    let keep = if args.keep.here { "here" } else { "there" };
    let options = Options::from([("dry-run", Variant::from(dry_run))]);
    let peer = args.peer.as_deref().unwrap_or_default();
    Ok(daemon.settle_move(&args.domain, keep, peer, options).await?)
}

/// A line for each sentence.
fn to_text(what: &str) -> String {
    what.replace(". ", ".\n")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Command};

    fn parsed(words: &[&str]) -> Option<Settle> {
        let args = Args::try_parse_from([&["virt-notify", "settle", "vm"], words].concat()).ok()?;
        match args.command {
            Command::Settle(args) => Some(args),
            _ => None,
        }
    }

    #[test]
    fn one_host_has_to_be_said() {
        assert!(parsed(&[]).is_none() && parsed(&["--here", "--there"]).is_none());
        assert!(parsed(&["--here"]).unwrap().keep.here);
        assert!(parsed(&["--there", "--peer", "host2"]).unwrap().keep.there);
        assert_eq!(to_text("it is. so it is"), "it is.\nso it is");
    }

    /// Neither a script nor `--json` settles without --yes, and no daemon is asked.
    #[tokio::test]
    async fn without_a_terminal_it_is_not_done_unasked() {
        let refused = run(None, &parsed(&["--here"]).unwrap(), true).await.unwrap_err();
        assert_eq!(refused.code(), code::USAGE);
    }
}
