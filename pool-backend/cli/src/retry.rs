// SPDX-License-Identifier: LGPL-2.1-or-later
//! `retry`: what waits for space is tried again at once.

use serde_json::{Value, json};

use crate::args::code;
use crate::client::{self, Host, Options, Problem, Retried};
use crate::show::{self, out};

/// `retry`.
pub async fn run(host: Host<'_>, as_json: bool) -> Result<u8, Problem> {
    let retried = client::daemon(host).await?.retry_now(Options::new()).await?;
    match as_json {
        true => show::json(&retried.iter().map(to_json).collect())?,
        false => out(&to_text(&retried))?,
    }
    let waits = retried.iter().any(|(_, _, now, _)| now == "waits");
    Ok(if waits { code::FINDINGS } else { code::FINE })
}

fn to_json((domain, uuid, now, reason): &Retried) -> Value {
    let reason = (!reason.is_empty()).then_some(reason);
    json!({ "domain": domain, "uuid": uuid, "now": now, "reason": reason })
}

fn to_text(retried: &[Retried]) -> String {
    if retried.is_empty() {
        return "no VM waits for space\n".to_owned();
    }
    let line = |(domain, _, now, reason): &Retried| match now.as_str() {
        "moves" => format!("{domain} moves: 'virt-notify moves' shows how it goes\n"),
        "resumes" => format!("{domain} has space here and goes on\n"),
        _ => format!("{domain} still waits: {reason}\n"),
    };
    retried.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_vm_has_a_line() {
        let row = |domain: &str, now: &str, reason: &str| {
            (domain.to_owned(), "id".to_owned(), now.to_owned(), reason.to_owned())
        };
        let all =
            [row("a", "moves", ""), row("b", "resumes", ""), row("c", "waits", "no peer fits")];
        let text = "a moves: 'virt-notify moves' shows how it goes\n\
                    b has space here and goes on\n\
                    c still waits: no peer fits\n";
        assert_eq!(to_text(&all), text);
        assert_eq!(to_text(&[]), "no VM waits for space\n");
        assert_eq!(to_json(&all[0])["reason"], Value::Null);
    }
}
