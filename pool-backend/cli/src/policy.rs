// SPDX-License-Identifier: LGPL-2.1-or-later
//! `policy`: what a pool does by itself when space gets low.

use std::collections::HashMap;

use serde_json::{Value, json};
use zbus::{OwnedVariant, Variant, proxy};

use crate::args::{PolicyAction, code};
use crate::client::{self, Host, Options, Problem};
use crate::show::{self, out, table};

/// Settings by name, as the daemon tells them.
type Settings = HashMap<String, OwnedVariant>;

/// A pool's object.
#[proxy(interface = "org.virtnotify1.Pool", default_service = "org.virtnotify1")]
trait PoolObject {
    /// Changes settings of its policy.
    #[zbus(allow_interactive_auth)]
    fn set_policy(
        &self,
        settings: HashMap<&str, Variant<'_>>,
        options: Options<'_>,
    ) -> zbus::Result<()>;
    /// Its policy.
    #[zbus(property)]
    fn policy(&self) -> zbus::Result<Settings>;
    /// Whether it is started.
    #[zbus(property)]
    fn active(&self) -> zbus::Result<bool>;
}

/// `policy get` and `policy set`.
pub async fn run(host: Host<'_>, action: &PolicyAction, as_json: bool) -> Result<u8, Problem> {
    let (PolicyAction::Get { pool } | PolicyAction::Set { pool, .. }) = action;
    let daemon = client::daemon(host).await?;
    let path = daemon.get_pool(pool).await?;
    let object = PoolObjectProxy::new(daemon.inner().connection(), path).await?;
    if let PolicyAction::Set { settings, .. } = action {
        let words = settings.iter();
        let words = words.map(|(name, value)| (name.as_str(), Variant::from(value.as_str())));
        let named: HashMap<&str, Variant<'_>> = words.collect();
        if named.len() < settings.len() {
            return Err(Problem::Usage("one setting is named twice".into()));
        }
        object.set_policy(named, Options::new()).await?;
        return Ok(code::FINE);
    }
    if !object.active().await? {
        let text = format!(
            "the pool '{pool}' is not active: 'virsh pool-dumpxml {pool}' shows its policy"
        );
        return Err(Problem::Cannot(text));
    }
    let policy = object.policy().await?;
    match as_json {
        true => show::json(&to_json(&policy))?,
        false => out(&to_text(&policy))?,
    }
    Ok(code::FINE)
}

/// What there is, in an order that stays.
fn sorted(policy: &Settings) -> Vec<(&str, &Variant<'static>)> {
    let all = policy.iter().map(|(name, value)| (name.as_str(), &**value));
    let mut all: Vec<_> = all.collect();
    all.sort_unstable_by_key(|(name, _)| *name);
    all
}

fn to_json(policy: &Settings) -> Value {
    let value = |value: &Variant<'_>| match value {
        Variant::U64(bytes) => json!(bytes),
        Variant::U32(number) => json!(number),
        Variant::F64(ratio) => json!(ratio),
        Variant::Bool(flag) => json!(flag),
        Variant::Str(text) => json!(text.as_str()),
        _ => Value::Null,
    };
    sorted(policy).into_iter().map(|(name, of)| (name.to_owned(), value(of))).collect()
}

/// As `policy set` takes it.
fn to_text(policy: &Settings) -> String {
    let value = |value: &Variant<'_>| match value {
        Variant::U64(bytes) => exact(*bytes),
        Variant::U32(number) => number.to_string(),
        Variant::F64(ratio) => ratio.to_string(),
        Variant::Bool(flag) => if *flag { "yes" } else { "no" }.to_owned(),
        Variant::Str(text) => text.to_string(),
        _ => "?".to_owned(),
    };
    let head = ["SETTING", "VALUE"].map(str::to_owned).to_vec();
    let rows = sorted(policy).into_iter().map(|(name, of)| vec![name.to_owned(), value(of)]);
    table(&std::iter::once(head).chain(rows).collect::<Vec<_>>(), &[])
}

/// A size in the largest unit of which it is a multiple.
fn exact(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let fits = |(_, shift): &&(&str, u32)| bytes > 0 && bytes.trailing_zeros() >= *shift;
    match UNITS.iter().find(fits) {
        Some((unit, shift)) => format!("{}{unit}", bytes >> shift),
        None => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_printed_as_it_is_set() {
        let all = [
            ("overcommit", Variant::F64(1.5)),
            ("low-mark", "10%".into()),
            ("movable", true.into()),
            ("bandwidth", (100u64 << 20).into()),
        ];
        let owned =
            |(name, value): (&str, Variant<'_>)| (name.to_owned(), value.try_to_owned().unwrap());
        let policy: Settings = all.into_iter().map(owned).collect();
        let text = "SETTING     VALUE\n\
                    bandwidth   100MiB\n\
                    low-mark    10%\n\
                    movable     yes\n\
                    overcommit  1.5\n";
        assert_eq!(to_text(&policy), text);
        let json = to_json(&policy);
        assert_eq!(json["bandwidth"], json!(100u64 << 20));
        assert_eq!((&json["movable"], &json["low-mark"]), (&json!(true), &json!("10%")));
        assert_eq!(
            [1, 1 << 10, 3 << 40, 1536 << 20, 0].map(exact),
            ["1B", "1KiB", "3TiB", "1536MiB", "0B"]
        );
    }
}
