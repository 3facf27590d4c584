// SPDX-License-Identifier: LGPL-2.1-or-later
//! What polkit answers is what happens: a made-up authority on a bus of its own.
#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use support::fake::{Client, LONG, connect_as, setup};
use virtnotify_proxy::Auth;
use virtnotify_wire::connect::{AuthListRet, AuthPolkitRet, AuthType};
use virtnotify_wire::storage::{StoragePoolGetInfoArgs, StoragePoolGetInfoRet};
use virtnotify_wire::{ErrorCode, Procedure, RemoteError, StoragePool};
use zbus::OwnedVariant;

const NOBODY: u32 = 65534;
const BUS: &str = "DBUS_SYSTEM_BUS_ADDRESS";
/// Set for the run on the bus of our own.
const INNER: &str = "POLKIT_DECIDES_INNER";

/// The subject's kind, the action, pid, uid, start time.
type Question = (String, String, u32, i32, u64);
type Answer = (bool, bool, HashMap<String, String>);

/// Answers as it is told and remembers what it was asked.
#[derive(Clone, Default)]
struct Authority {
    answer: Arc<Mutex<Answer>>,
    asked: Arc<Mutex<Vec<Question>>>,
    /// A dialog is open, and nobody answers it.
    held: Arc<AtomicBool>,
    /// Whether a person may be asked, of each question.
    flags: Arc<Mutex<Vec<u32>>>,
    /// What each question has beside who asks for what.
    details: Arc<Mutex<Vec<HashMap<String, String>>>>,
}

#[zbus::interface(name = "org.freedesktop.PolicyKit1.Authority")]
impl Authority {
    async fn check_authorization(
        &self,
        subject: (String, HashMap<String, OwnedVariant>),
        action: String,
        given: HashMap<String, String>,
        flags: u32,
        _cancellation: String,
    ) -> Answer {
        let (kind, mut details) = subject;
        let mut take = |name: &str| details.remove(name).unwrap();
        let pid = u32::try_from(take("pid")).unwrap();
        let uid = i32::try_from(take("uid")).unwrap();
        let start = u64::try_from(take("start-time")).unwrap();
        self.asked.lock().unwrap().push((kind, action, pid, uid, start));
        self.flags.lock().unwrap().push(flags);
        self.details.lock().unwrap().push(given);
        if self.held.load(Ordering::Acquire) {
            std::future::pending::<()>().await;
        }
        self.answer.lock().unwrap().clone()
    }
}

/// The system bus is found by the environment, so the test runs itself with another.
#[test]
#[ignore = "needs root and dbus-daemon"]
fn polkit_decides() {
    if std::env::var_os(INNER).is_some() {
        tokio::runtime::Runtime::new().unwrap().block_on(with_a_bus_of_our_own());
        return;
    }
    let mut bus = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "dbus-daemon", "--session", "--nofork", "--print-address"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut address = String::new();
    BufReader::new(bus.stdout.take().unwrap()).read_line(&mut address).unwrap();
    assert!(!address.is_empty(), "there is no dbus-daemon here");
    let inner = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "polkit_decides"])
        .env(BUS, address.trim())
        .env(INNER, "1")
        .output()
        .unwrap();
    bus.kill().unwrap();
    bus.wait().unwrap();
    assert!(inner.status.success(), "{inner:?}");
}

async fn with_a_bus_of_our_own() {
    let authority = Authority::default();
    let _service = zbus::connection::Builder::system()
        .name("org.freedesktop.PolicyKit1")
        .serve_at("/org/freedesktop/PolicyKit1/Authority", authority.clone())
        .build()
        .await
        .unwrap();
    let setup = setup(|config| {
        config.rw.auth = Auth::Polkit;
        config.ro.auth = Auth::Polkit;
    })
    .await;
    let none = HashMap::new;
    let dismissed = HashMap::from([("polkit.dismissed".to_owned(), "true".to_owned())]);
    let no_agent = "no polkit agent available to authenticate action 'org.libvirt.unix.manage'";
    let cancelled = "user cancelled authentication process";
    for (answer, expected) in [
        ((true, false, none()), None),
        ((false, false, none()), Some((ErrorCode::AUTH_FAILED, "access denied by policy"))),
        ((false, true, none()), Some((ErrorCode::AUTH_UNAVAILABLE, no_agent))),
        ((false, false, dismissed), Some((ErrorCode::AUTH_CANCELLED, cancelled))),
    ] {
        *authority.answer.lock().unwrap() = answer;
        let stream = connect_as(NOBODY, &setup.path("sock"));
        let mut client = Client::new(stream);
        let authenticated = authenticate(&mut client).await;
        let opened = client.open("storage:///system", 0).await;
        match expected {
            None => {
                authenticated.unwrap();
                opened.unwrap();
            }
            Some((code, sentence)) => {
                let refused = authenticated.unwrap_err();
                assert!(refused.is(code));
                assert_eq!(refused.str2.as_deref(), Some(sentence));
                assert!(opened.unwrap_err().is(ErrorCode::RPC));
            }
        }
    }
    // A refused client may try again on the same connection, and on the read-only
    // socket it is another question.
    *authority.answer.lock().unwrap() = (false, true, none());
    let stream = connect_as(NOBODY, &setup.path("sock-ro"));
    let mut client = Client::new(stream);
    authenticate(&mut client).await.unwrap_err();
    *authority.answer.lock().unwrap() = (true, false, none());
    authenticate(&mut client).await.unwrap();
    client.open("storage:///system", 0).await.unwrap();
    check_questions(&authority.asked.lock().unwrap());
    a_large_user_number_is_handed_on(&authority).await;
    who_hangs_up_during_a_dialog_frees_his_place(&authority).await;
    assert!(authority.flags.lock().unwrap().iter().all(|flags| *flags == 1));
    assert!(authority.details.lock().unwrap().iter().all(HashMap::is_empty));
    each_object_is_asked_about(&authority).await;
}

/// Where libvirt's daemon asks about each object: by the same action, with the same details, of the
/// same process, and without a dialog.
async fn each_object_is_asked_about(authority: &Authority) {
    let libvirt = tempfile::tempdir().unwrap();
    std::fs::write(libvirt.path().join("libvirtd.conf"), "access_drivers = ['polkit']").unwrap();
    let directory = libvirt.path().to_owned();
    let setup = setup(|config| config.libvirt = directory).await;
    let mut client = Client::new(connect_as(NOBODY, &setup.path("sock")));
    *authority.answer.lock().unwrap() = (true, false, HashMap::new());
    client.open("storage:///system", 0).await.unwrap();
    let pool = StoragePool { name: "vms".to_owned(), uuid: support::UUID };
    let info = StoragePoolGetInfoArgs { pool };
    let asked = client.call(Procedure::StoragePoolGetInfo, &info).await;
    let _: StoragePoolGetInfoRet = asked.unwrap();
    for answer in [(false, false, HashMap::new()), (false, true, HashMap::new())] {
        *authority.answer.lock().unwrap() = answer;
        let denied = client.call::<_, StoragePoolGetInfoRet>(Procedure::StoragePoolGetInfo, &info);
        assert!(denied.await.unwrap_err().is(ErrorCode::ACCESS_DENIED));
    }
    let asked = authority.asked.lock().unwrap().clone();
    let asked = &asked[asked.len() - 4..];
    let actions: Vec<&str> = asked.iter().map(|question| question.1.as_str()).collect();
    let read = "org.libvirt.api.storage-pool.read";
    assert_eq!(actions, ["org.libvirt.api.connect.getattr", read, read, read]);
    for (kind, _, pid, uid, start) in asked {
        assert_eq!((kind.as_str(), *pid, *uid), ("unix-process", std::process::id(), 65534));
        assert_ne!(*start, 0);
    }
    let flags = authority.flags.lock().unwrap().clone();
    assert_eq!(flags[flags.len() - 4..], [0, 0, 0, 0], "a dialog");
    let details = authority.details.lock().unwrap().clone();
    let of = |all: &[(&str, &str)]| -> HashMap<String, String> {
        all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let uuid = support::UUID.to_string();
    let of_pool = [("connect_driver", "storage"), ("pool_name", "vms"), ("pool_uuid", &uuid)];
    assert_eq!(details[details.len() - 4], of(&of_pool[..1]));
    assert_eq!(details[details.len() - 1], of(&of_pool));
}

async fn a_large_user_number_is_handed_on(authority: &Authority) {
    let setup = setup(|config| config.rw.auth = Auth::Polkit).await;
    let mut client = Client::new(connect_as(3_000_000_000, &setup.path("sock")));
    authenticate(&mut client).await.unwrap();
    let (_, _, _, uid, _) = authority.asked.lock().unwrap().last().unwrap().clone();
    assert_eq!(u32::from_ne_bytes(uid.to_ne_bytes()), 3_000_000_000);
}

async fn who_hangs_up_during_a_dialog_frees_his_place(authority: &Authority) {
    let setup = setup(|config| {
        config.rw.auth = Auth::Polkit;
        config.max_anonymous_clients = 1;
    })
    .await;
    authority.held.store(true, Ordering::Release);
    let before = authority.asked.lock().unwrap().len();
    let mut gone = Client::new(connect_as(NOBODY, &setup.path("sock")));
    let ask = gone.frame(Procedure::AuthPolkit, &());
    gone.send(ask).await;
    let asked = async {
        while authority.asked.lock().unwrap().len() == before {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, asked).await.unwrap();
    drop(gone);
    authority.held.store(false, Ordering::Release);
    let mut next = Client::new(connect_as(NOBODY, &setup.path("sock")));
    authenticate(&mut next).await.unwrap();
}

async fn authenticate(client: &mut Client) -> Result<AuthPolkitRet, RemoteError> {
    let offered: AuthListRet = client.call(Procedure::AuthList, &()).await?;
    assert_eq!(offered.types.0, [AuthType::Polkit]);
    let answered = client.call(Procedure::AuthPolkit, &());
    tokio::time::timeout(LONG, answered).await.unwrap()
}

fn check_questions(asked: &[Question]) {
    let actions: Vec<&str> = asked.iter().map(|question| question.1.as_str()).collect();
    let (manage, monitor) = ("org.libvirt.unix.manage", "org.libvirt.unix.monitor");
    assert_eq!(actions, [manage, manage, manage, manage, monitor, monitor]);
    for (kind, _, pid, uid, start) in asked {
        assert_eq!(kind, "unix-process");
        assert_eq!((*pid, *uid), (std::process::id(), 65534));
        assert_ne!(*start, 0);
    }
}
