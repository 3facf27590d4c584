// SPDX-License-Identifier: LGPL-2.1-or-later
//! Access control for each object, with a made-up authority: what is asked is what libvirt asks, and
//! what it says is what happens.
#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::fake::{Client, Setup, connect_as, dir_pool, setup};
use virtnotify_proxy::access::{Asked, Authority, Question, Unanswered};
use virtnotify_wire::connect::{ConnectSetIdentityArgs, TypedParam, TypedValue};
use virtnotify_wire::service::PoolEventKind;
use virtnotify_wire::storage::*;
use virtnotify_wire::{
    About, ErrorCode, ErrorDomain, Frame, Header, List, PoolEvent, Procedure, RemoteError, encode,
};

const CALLER: u32 = 1000;
const NOBODY: u32 = 65534;

/// What is said to a question; nothing is no answer.
type Rule = Box<dyn Fn(&Question) -> Option<bool> + Send>;

/// Answers by a rule and remembers what it was asked.
struct Made {
    rule: Mutex<Rule>,
    asked: Mutex<Vec<Question>>,
}

impl std::fmt::Debug for Made {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("a made-up authority")
    }
}

impl Authority for Made {
    fn ask<'a>(&'a self, question: &'a Question) -> Asked<'a> {
        self.asked.lock().unwrap().push(question.clone());
        let said = (self.rule.lock().unwrap())(question);
        Box::pin(async move { said.ok_or(Unanswered::Silent(Duration::from_secs(25))) })
    }
}

impl Made {
    fn says(&self, rule: impl Fn(&Question) -> Option<bool> + Send + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
        self.asked.lock().unwrap().clear();
    }

    fn asked(&self) -> Vec<Question> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// The actions that were asked for since the last look, without `org.libvirt.api.`.
    fn actions(&self) -> Vec<String> {
        let prefix = |question: Question| {
            question.action.strip_prefix("org.libvirt.api.").unwrap().to_owned()
        };
        self.asked().into_iter().map(prefix).collect()
    }
}

fn detail<'a>(question: &'a Question, name: &str) -> Option<&'a str> {
    let found = question.details.iter().find(|(key, _)| *key == name);
    found.map(|(_, value)| value.as_str())
}

/// All about the pool `vms`, and nothing about any other.
fn vms_alone(question: &Question) -> Option<bool> {
    Some(detail(question, "pool_name").is_none_or(|name| name == "vms"))
}

fn vms() -> StoragePool {
    StoragePool { name: "vms".to_owned(), uuid: support::UUID }
}

fn other() -> StoragePool {
    StoragePool { name: "other".to_owned(), uuid: Uuid([0x33; 16]) }
}

fn vol(pool: &StoragePool, name: &str) -> StorageVol {
    // Not the key that it has.
    StorageVol { pool: pool.name.clone(), name: name.to_owned(), key: "another".to_owned() }
}

struct Host {
    setup: Setup,
    authority: Arc<Made>,
    libvirt: tempfile::TempDir,
}

/// A host with the pools `vms` and `other` of ours, whose libvirt says that of access control.
async fn host(conf: &str) -> Host {
    let libvirt = tempfile::tempdir().unwrap();
    std::fs::write(libvirt.path().join("virtstoraged.conf"), conf).unwrap();
    let rule: Rule = Box::new(vms_alone);
    let authority = Arc::new(Made { rule: Mutex::new(rule), asked: Mutex::default() });
    let (directory, asked) = (libvirt.path().to_owned(), Arc::clone(&authority));
    let setup = setup(move |config| {
        config.libvirt = directory;
        config.authority = asked;
    })
    .await;
    setup.service.add(other(), &["disk8", "disk9"]);
    Host { setup, authority, libvirt }
}

const POLKIT: &str = "access_drivers = [ \"polkit\" ]\n";

impl Host {
    /// A client that is not root, or acts for a user who is not.
    async fn client(&self, socket: &str) -> Client {
        let mut client = self.setup.client(socket).await;
        client.open("storage:///system", 0).await.unwrap();
        if rustix::process::geteuid().is_root() {
            identify(&mut client, &IDENTITY).await;
        }
        self.authority.asked();
        client
    }
}

const IDENTITY: [(&str, TypedValue); 3] = [
    ("unix-user-id", TypedValue::ULLong(CALLER as u64)),
    ("process-id", TypedValue::LLong(7)),
    ("process-time", TypedValue::ULLong(9)),
];

async fn identify(client: &mut Client, params: &[(&str, TypedValue)]) {
    let param = |(field, value): &(&str, TypedValue)| TypedParam {
        field: (*field).to_owned(),
        value: value.clone(),
    };
    let params = List(params.iter().map(param).collect());
    let args = ConnectSetIdentityArgs { params, flags: 0 };
    client.call::<_, ()>(Procedure::ConnectSetIdentity, &args).await.unwrap();
}

fn is_denied(error: &RemoteError) {
    assert!(error.is(ErrorCode::ACCESS_DENIED), "{error}");
    assert_eq!(error.domain, ErrorDomain::ACCESS.0);
    assert_eq!(error.message.as_deref(), Some("access denied: 'storage' denied access"));
}

/// The arguments of any call about a pool or a volume: it, a text, and enough for the rest.
fn args_of(about: About, pool: &StoragePool, volume: &str) -> Option<Vec<u8>> {
    use About as A;
    let rest = [encode(&volume.to_owned()).unwrap(), vec![0; 64]].concat();
    match about {
        A::Pool | A::Volumes(_) | A::VolumeName | A::NewVolume => {
            Some([encode(pool).unwrap(), rest].concat())
        }
        A::Volume | A::PoolOfVolume | A::Download | A::Upload => {
            Some([encode(&vol(pool, volume)).unwrap(), rest].concat())
        }
        _ => None,
    }
}

async fn called(client: &mut Client, procedure: Procedure, args: &[u8]) -> Frame {
    let header = client.frame(procedure, &()).header;
    client.exchange(Frame::new(Header { ..header }, args).unwrap()).await
}

/// Each call about a pool or volume: asked for by its own permissions, with the object's details, and
/// not executed when the answer is no.
#[tokio::test]
async fn each_call_asks_as_libvirt_does_and_a_denied_one_does_nothing() {
    let host = host(POLKIT).await;
    let mut client = host.client("sock").await;
    let mut looked_at = 0;
    for procedure in Procedure::ALL.iter().copied().filter(|procedure| procedure.is_storage()) {
        let Some(args) = args_of(procedure.about(), &other(), "disk9") else { continue };
        let executed = host.setup.service.calls.lock().unwrap().len();
        let reply = called(&mut client, procedure, &args).await;
        is_denied(&reply.decode_error().unwrap());
        let done: Vec<_> = host.setup.service.calls.lock().unwrap()[executed..]
            .iter()
            .map(|call| call.0)
            .collect();
        let looks = [Procedure::StorageVolLookupByName];
        assert!(done.iter().all(|done| looks.contains(done)), "{procedure}: {done:?}");
        let asked = host.authority.asked();
        let [question] = &asked[..] else { panic!("{procedure}: {asked:?}") };
        assert_eq!(question.action, procedure.permissions()[0].action(), "{procedure}");
        assert_eq!(detail(question, "connect_driver"), Some("storage"));
        assert_eq!(detail(question, "pool_name"), Some("other"));
        assert_eq!(detail(question, "pool_uuid"), Some(&*other().uuid.to_string()));
        if rustix::process::geteuid().is_root() {
            let caller = question.caller;
            assert_eq!((caller.uid, caller.pid, caller.start_time), (CALLER, 7, 9));
        }
        looked_at += 1;
    }
    assert_eq!(looked_at, 28);
}

#[tokio::test]
async fn an_allowed_call_is_executed_and_a_volume_is_asked_about_by_its_own_key() {
    let host = host(POLKIT).await;
    let mut client = host.client("sock").await;
    let args = StorageVolGetPathArgs { vol: vol(&vms(), "disk0") };
    let path: StorageVolGetPathRet =
        client.call(Procedure::StorageVolGetPath, &args).await.unwrap();
    assert_eq!(path.name, "/dev/notify/vms/disk0");
    let asked = host.authority.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].action, "org.libvirt.api.storage-vol.read");
    assert_eq!(detail(&asked[0], "vol_name"), Some("disk0"));
    assert_eq!(detail(&asked[0], "vol_key"), Some("/dev/notify/vms/disk0"), "the client's word");
    // What is not there is missing, for everybody and before anybody is asked.
    let args = StorageVolGetPathArgs { vol: vol(&vms(), "none") };
    let missing: Result<StorageVolGetPathRet, _> =
        client.call(Procedure::StorageVolGetPath, &args).await;
    assert!(missing.unwrap_err().is(ErrorCode::NO_STORAGE_VOL));
    assert_eq!(host.authority.asked(), []);
}

/// With a name that is another's, polkit would be asked about one pool, and the driver and the log have the other.
#[tokio::test]
async fn a_pool_has_its_own_name_whatever_name_came_with_its_uuid() {
    let host = host(POLKIT).await;
    let mut client = host.client("sock").await;
    let pool = StoragePool { name: other().name, ..vms() };
    let args = StoragePoolGetXmlDescArgs { pool: pool.clone(), flags: 0 };
    let told: StoragePoolGetXmlDescRet =
        client.call(Procedure::StoragePoolGetXmlDesc, &args).await.unwrap();
    assert!(told.xml.contains("<name>vms</name>"), "{}", told.xml);
    // What follows the pool is as it was.
    let args = StorageVolLookupByNameArgs { pool, name: "disk0".to_owned() };
    let found: StorageVolLookupByNameRet =
        client.call(Procedure::StorageVolLookupByName, &args).await.unwrap();
    assert_eq!((&*found.vol.pool, &*found.vol.name), ("vms", "disk0"));
    for question in host.authority.asked() {
        assert_eq!(detail(&question, "pool_name"), Some("vms"));
    }
}

#[tokio::test]
async fn lists_and_counts_leave_out_what_the_client_may_not_see() {
    let host = host(POLKIT).await;
    let mut client = host.client("sock").await;
    for need_results in [1, 0] {
        let args = ConnectListAllStoragePoolsArgs { need_results, flags: 0 };
        let list: ConnectListAllStoragePoolsRet =
            client.call(Procedure::ConnectListAllStoragePools, &args).await.unwrap();
        assert_eq!(list.ret, 2);
        // The made-up libvirt gives its pool whatever it is asked for.
        let ours = if need_results == 1 { vec![dir_pool(), vms()] } else { vec![dir_pool()] };
        assert_eq!(list.pools.0, ours);
    }
    let names: ConnectListStoragePoolsRet = client
        .call(Procedure::ConnectListStoragePools, &ConnectListStoragePoolsArgs { maxnames: 9 })
        .await
        .unwrap();
    assert_eq!(names.names.0, ["dir", "vms"]);
    let count: ConnectNumOfStoragePoolsRet =
        client.call(Procedure::ConnectNumOfStoragePools, &()).await.unwrap();
    assert_eq!(count.num, 2);
    let actions = host.authority.actions();
    assert!(actions.iter().all(|action| action == "storage-pool.getattr"), "{actions:?}");
    // Of the volumes of a pool that it may list, all but one.
    host.authority.says(|question| Some(detail(question, "vol_name") != Some("disk8")));
    let all = StoragePoolListAllVolumesArgs { pool: other(), need_results: 1, flags: 0 };
    let list: StoragePoolListAllVolumesRet =
        client.call(Procedure::StoragePoolListAllVolumes, &all).await.unwrap();
    assert_eq!(list.vols.iter().map(|vol| vol.name.as_str()).collect::<Vec<_>>(), ["disk9"]);
    assert_eq!(list.ret, 1);
    let expected =
        ["storage-pool.search-storage-vols", "storage-vol.getattr", "storage-vol.getattr"];
    assert_eq!(host.authority.actions(), expected);
    let args = StoragePoolListVolumesArgs { pool: other(), maxnames: 9 };
    let names: StoragePoolListVolumesRet =
        client.call(Procedure::StoragePoolListVolumes, &args).await.unwrap();
    assert_eq!(names.names.0, ["disk9"]);
    let args = StoragePoolNumOfVolumesArgs { pool: other() };
    let count: StoragePoolNumOfVolumesRet =
        client.call(Procedure::StoragePoolNumOfVolumes, &args).await.unwrap();
    assert_eq!(count.num, 1);
}

#[tokio::test]
async fn what_polkit_does_not_answer_is_denied() {
    let host = host(POLKIT).await;
    let mut client = host.client("sock").await;
    host.authority.says(|_| None);
    let args = StoragePoolGetInfoArgs { pool: vms() };
    let info: Result<StoragePoolGetInfoRet, _> =
        client.call(Procedure::StoragePoolGetInfo, &args).await;
    is_denied(&info.unwrap_err());
    host.authority.asked();
    let args = ConnectListAllStoragePoolsArgs { need_results: 1, flags: 0 };
    let list: ConnectListAllStoragePoolsRet =
        client.call(Procedure::ConnectListAllStoragePools, &args).await.unwrap();
    assert_eq!(list.pools.0, [dir_pool()], "libvirt's own are libvirt's to judge");
    assert_eq!(host.authority.asked().len(), 1, "asked again in vain");
    // It answers again.
    host.authority.says(vms_alone);
    let args = StoragePoolGetInfoArgs { pool: vms() };
    let _: StoragePoolGetInfoRet = client.call(Procedure::StoragePoolGetInfo, &args).await.unwrap();
}

#[tokio::test]
async fn a_read_only_client_is_asked_about_what_it_reads() {
    let host = host(POLKIT).await;
    let mut client = host.client("sock-ro").await;
    for (pool, allowed) in [(vms(), true), (other(), false)] {
        let args = StoragePoolGetInfoArgs { pool };
        let info: Result<StoragePoolGetInfoRet, _> =
            client.call(Procedure::StoragePoolGetInfo, &args).await;
        assert_eq!(info.is_ok(), allowed);
        assert_eq!(host.authority.actions(), ["storage-pool.read"]);
    }
    // What it may not do at all is nobody's question.
    let args = StoragePoolUndefineArgs { pool: vms() };
    let refused = client.call::<_, ()>(Procedure::StoragePoolUndefine, &args).await.unwrap_err();
    assert!(refused.is(ErrorCode::OPERATION_DENIED), "{refused}");
    assert_eq!(host.authority.asked(), []);
}

#[tokio::test]
async fn nothing_is_asked_where_libvirt_asks_nothing() {
    for conf in ["", "#access_drivers = [ \"polkit\" ]\n", "access_drivers = [ \"none\" ]\n"] {
        let host = host(conf).await;
        host.authority.says(|_| None);
        let mut client = host.client("sock").await;
        let args = StoragePoolGetInfoArgs { pool: other() };
        let _: StoragePoolGetInfoRet =
            client.call(Procedure::StoragePoolGetInfo, &args).await.unwrap();
        assert_eq!(host.authority.asked(), []);
    }
}

/// Its daemon is restarted, which a client of ours lives through: it would never be asked about.
#[tokio::test]
async fn who_came_before_libvirt_asked_has_to_come_again() {
    let host = host("").await;
    let mut client = host.client("sock").await;
    std::fs::write(host.libvirt.path().join("virtstoraged.conf"), POLKIT).unwrap();
    let args = StoragePoolGetInfoArgs { pool: other() };
    let _: StoragePoolGetInfoRet = client.call(Procedure::StoragePoolGetInfo, &args).await.unwrap();
    host.setup.restart.notify_waiters();
    assert!(client.next().await.is_none(), "it goes on");
    let mut client = host.client("sock").await;
    let info: Result<StoragePoolGetInfoRet, _> =
        client.call(Procedure::StoragePoolGetInfo, &args).await;
    is_denied(&info.unwrap_err());
    // Nothing is otherwise for one that is asked about already.
    host.setup.restart.notify_waiters();
    let args = StoragePoolGetInfoArgs { pool: vms() };
    let _: StoragePoolGetInfoRet = client.call(Procedure::StoragePoolGetInfo, &args).await.unwrap();
}

/// When its clients lose it, what libvirt will ask when it is started is not written yet. Some of them came when it was
/// stopped already, and some need it before they need a pool of ours.
#[tokio::test]
async fn who_came_before_has_to_come_again_when_libvirt_was_stopped_meanwhile() {
    for (alone, starts, passes) in [
        (false, false, false),
        (false, true, false),
        (false, true, true),
        (true, false, false),
        (true, true, false),
        (true, true, true),
    ] {
        let host = host("").await;
        let come = async || host.client("sock").await;
        let before = if alone { None } else { Some(come().await) };
        host.setup.stop_upstream().await;
        let mut client = match before {
            Some(client) => client,
            None => come().await,
        };
        let info = StoragePoolGetInfoArgs { pool: other() };
        for _ in 0..3 {
            let _: StoragePoolGetInfoRet =
                client.call(Procedure::StoragePoolGetInfo, &info).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::fs::write(host.libvirt.path().join("virtstoraged.conf"), POLKIT).unwrap();
        let again = starts.then(|| host.setup.serve_upstream());
        if passes {
            let frame = client.future(9000, b"");
            client.exchange(frame).await;
        }
        let call = client.frame(Procedure::StoragePoolGetInfo, &info);
        client.send(call).await;
        assert!(client.next().await.is_none(), "it goes on: {alone} {starts} {passes}");
        if let Some(again) = again {
            again.abort();
        }
    }
}

/// A daemon that is started anew ends the streams of its clients, and so do we when they were begun unasked: when its
/// end is seen, and when there is no connection whose end could be.
#[tokio::test]
async fn a_stream_that_was_begun_unasked_ends_when_libvirt_asks() {
    for (stopped, procedure) in [
        (false, Procedure::StorageVolDownload),
        (true, Procedure::StorageVolDownload),
        (true, Procedure::StorageVolUpload),
    ] {
        let host = host("").await;
        let disk = vol(&other(), "disk8");
        host.setup.service.fill(&disk, vec![7; 64 << 20]);
        let mut client = host.client("sock").await;
        if stopped {
            host.setup.stop_upstream().await;
        }
        let args = StorageVolDownloadArgs { vol: disk, offset: 0, length: 0, flags: 0 };
        client.call::<_, ()>(procedure, &args).await.unwrap();
        std::fs::write(host.libvirt.path().join("virtstoraged.conf"), POLKIT).unwrap();
        host.setup.restart.notify_waiters();
        let mut got = 0;
        while let Some(message) = client.next().await {
            got += message.frame.payload().len();
            // As slowly as a client that is far away.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(got < 64 << 20, "all of it was told: {stopped} {procedure}");
        while host.setup.service.open_downloads() > 0 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_volume_that_may_not_be_seen_is_not_found_and_a_pool_is_denied() {
    let host = host(POLKIT).await;
    let mut client = host.client("sock").await;
    host.authority.says(|_| Some(false));
    let args = StorageVolLookupByPathArgs { path: "/dev/notify/vms/disk0".to_owned() };
    let frame = client.frame(Procedure::StorageVolLookupByPath, &args);
    let reply = client.exchange(frame).await;
    // Libvirt is asked instead, which says in its own words that there is none; the made-up one
    // sends back what it got.
    assert_eq!(reply.payload(), encode(&args).unwrap());
    assert_eq!(host.authority.actions(), ["storage-vol.getattr"]);
    let args = StoragePoolLookupByTargetPathArgs { path: "/dev/notify/vms".to_owned() };
    let found: Result<StoragePoolLookupByTargetPathRet, _> =
        client.call(Procedure::StoragePoolLookupByTargetPath, &args).await;
    is_denied(&found.unwrap_err());
    host.authority.asked();
    let args = StoragePoolLookupByNameArgs { name: "vms".to_owned() };
    let found: Result<StoragePoolLookupByNameRet, _> =
        client.call(Procedure::StoragePoolLookupByName, &args).await;
    is_denied(&found.unwrap_err());
    let args = StoragePoolLookupByUuidArgs { uuid: support::UUID };
    let found: Result<StoragePoolLookupByUuidRet, _> =
        client.call(Procedure::StoragePoolLookupByUuid, &args).await;
    is_denied(&found.unwrap_err());
    let asked = host.authority.asked();
    assert!(asked.iter().all(|question| detail(question, "pool_name") == Some("vms")), "{asked:?}");
}

#[tokio::test]
async fn a_definition_is_asked_about_under_the_names_that_it_has() {
    let host = host(POLKIT).await;
    let mut client = host.client("sock").await;
    let long = "n".repeat(4000);
    for name in ["-x", "../../etc", "a\nb", "$(reboot);'\"", "%s%n", "vms\u{202e}", "", &long] {
        let xml = format!("<pool type='notify'><name>{name}</name></pool>");
        let args = StoragePoolDefineXmlArgs { xml: xml.clone(), flags: 0 };
        let defined: Result<StoragePoolDefineXmlRet, _> =
            client.call(Procedure::StoragePoolDefineXml, &args).await;
        is_denied(&defined.unwrap_err());
        let asked = host.authority.asked();
        assert_eq!(asked.len(), 1);
        assert_eq!(detail(&asked[0], "pool_name"), Some(name));
        assert_eq!(detail(&asked[0], "pool_uuid").unwrap().len(), 36);
        assert!(host.setup.service.calls.lock().unwrap().is_empty(), "{name:?} was defined");
    }
    // Both permissions, and the UUID that the definition has.
    host.authority.says(|_| Some(true));
    let uuid = Uuid([0x44; 16]);
    let xml = format!("<pool type='notify'><name>new</name><uuid>{uuid}</uuid></pool>");
    let args = StoragePoolCreateXmlArgs { xml, flags: 0 };
    let made: StoragePoolCreateXmlRet =
        client.call(Procedure::StoragePoolCreateXml, &args).await.unwrap();
    assert_eq!(made.pool.uuid, uuid);
    let asked = host.authority.asked();
    let actions: Vec<_> = asked.iter().map(|question| question.action.as_str()).collect();
    let expected = ["org.libvirt.api.storage-pool.start", "org.libvirt.api.storage-pool.write"];
    assert_eq!(actions, expected);
    assert_eq!(detail(&asked[0], "pool_uuid"), Some(&*uuid.to_string()));
}

/// A client that may define nothing does not learn which pools of ours there are.
#[tokio::test]
async fn a_pool_in_the_way_of_libvirts_is_not_told_to_who_may_not_define_it() {
    let host = host(POLKIT).await;
    let mut client = host.client("sock").await;
    for (allowed, code) in [(false, ErrorCode::ACCESS_DENIED), (true, ErrorCode::OPERATION_FAILED)]
    {
        host.authority.says(move |_| Some(allowed));
        let xml = "<pool type='dir'><name>other</name></pool>".to_owned();
        let args = StoragePoolDefineXmlArgs { xml, flags: 0 };
        let defined: Result<StoragePoolDefineXmlRet, _> =
            client.call(Procedure::StoragePoolDefineXml, &args).await;
        let error = defined.unwrap_err();
        assert!(error.is(code), "{error}");
    }
}

#[tokio::test]
async fn a_volume_is_read_by_making_another_one_of_it() {
    let host = host(POLKIT).await;
    let mut client = host.client("sock").await;
    let xml = |backing: &str| format!("<volume><name>c1</name>{backing}</volume>");
    let reads = |question: &Question| Some(!question.action.ends_with(".data-read"));
    host.authority.says(reads);
    let clone = StorageVolCreateXmlFromArgs {
        pool: vms(),
        xml: xml(""),
        clonevol: vol(&other(), "disk9"),
        flags: 0,
    };
    let made: Result<StorageVolCreateXmlFromRet, _> =
        client.call(Procedure::StorageVolCreateXmlFrom, &clone).await;
    is_denied(&made.unwrap_err());
    let asked = host.authority.asked();
    let about = |question: &Question| {
        let named = |name| detail(question, name).map(str::to_owned);
        (
            question.action.rsplit('.').next().unwrap().to_owned(),
            named("pool_name"),
            named("vol_name"),
        )
    };
    let about: Vec<_> = asked.iter().map(about).collect();
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(about[0], ("create".to_owned(), some("vms"), some("c1")));
    assert_eq!(about[1], ("data-read".to_owned(), some("other"), some("disk9")));
    assert_eq!(detail(&asked[0], "vol_key"), None, "it has none yet");
    let backing = "<backingStore><path>/dev/notify/vms/disk0</path></backingStore>";
    let made = StorageVolCreateXmlArgs { pool: vms(), xml: xml(backing), flags: 0 };
    let made: Result<StorageVolCreateXmlRet, _> =
        client.call(Procedure::StorageVolCreateXml, &made).await;
    is_denied(&made.unwrap_err());
    assert_eq!(host.authority.actions(), ["storage-vol.create", "storage-vol.data-read"]);
    // Out of a pool of ours into one of libvirt's, libvirt asks about the new volume.
    let out = StorageVolCreateXmlFromArgs { pool: dir_pool(), ..clone };
    let made: Result<StorageVolCreateXmlFromRet, _> =
        client.call(Procedure::StorageVolCreateXmlFrom, &out).await;
    is_denied(&made.unwrap_err());
    assert_eq!(host.authority.actions(), ["storage-vol.data-read"]);
    let calls = host.setup.service.calls.lock().unwrap().clone();
    let changes = calls.iter().filter(|(procedure, _)| !procedure.allowed_read_only());
    assert_eq!(changes.collect::<Vec<_>>(), Vec::<&(Procedure, _)>::new());
}

#[tokio::test]
async fn events_of_pools_that_may_not_be_seen_are_kept_back() {
    let host = host(POLKIT).await;
    let mut client = host.client("sock").await;
    let args = ConnectStoragePoolEventRegisterAnyArgs { event_id: 0, pool: None };
    let _: ConnectStoragePoolEventRegisterAnyRet =
        client.call(Procedure::ConnectStoragePoolEventRegisterAny, &args).await.unwrap();
    for pool in [other(), vms()] {
        let kind = PoolEventKind::Lifecycle { event: 2, detail: 0 };
        host.setup.service.emit(PoolEvent { pool, kind });
    }
    let first = client.next().await.unwrap().frame;
    let told: StoragePoolEventLifecycleMsg = virtnotify_wire::decode(&first.payload()).unwrap();
    assert_eq!(told.pool, vms());
    assert_eq!(host.authority.actions(), ["storage-pool.getattr", "storage-pool.getattr"]);
}

#[tokio::test]
#[ignore = "needs root"]
async fn an_identity_without_a_process_may_do_nothing_and_root_everything() {
    let host = host(POLKIT).await;
    host.authority.says(|_| Some(true));
    let mut client = host.setup.client("sock").await;
    client.open("storage:///system", 0).await.unwrap();
    let info = StoragePoolGetInfoArgs { pool: other() };
    let asked = client.call(Procedure::StoragePoolGetInfo, &info).await;
    let _: StoragePoolGetInfoRet = asked.unwrap();
    identify(&mut client, &IDENTITY[..1]).await;
    let denied: Result<StoragePoolGetInfoRet, _> =
        client.call(Procedure::StoragePoolGetInfo, &info).await;
    is_denied(&denied.unwrap_err());
    assert_eq!(host.authority.asked(), [], "neither is polkit's to answer");
}

#[tokio::test]
#[ignore = "needs root"]
async fn who_may_not_open_the_connection_does_not() {
    let host = host(POLKIT).await;
    host.authority.says(|question| Some(!question.action.ends_with(".connect.getattr")));
    let mut client = Client::new(connect_as(NOBODY, &host.setup.path("sock")));
    is_denied(&client.open("storage:///system", 0).await.unwrap_err());
    let asked = host.authority.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0].caller.uid, asked[0].details.len()), (NOBODY, 1));
    assert_eq!(detail(&asked[0], "connect_driver"), Some("storage"));
    let info = StoragePoolGetInfoArgs { pool: vms() };
    let frame = client.frame(Procedure::StoragePoolGetInfo, &info);
    client.exchange(frame).await;
    assert!(host.setup.service.calls.lock().unwrap().is_empty(), "it is not open");
    // It may try again.
    host.authority.says(|_| Some(true));
    client.open("storage:///system", 0).await.unwrap();
    let asked = client.call(Procedure::StoragePoolGetInfo, &info).await;
    let _: StoragePoolGetInfoRet = asked.unwrap();
}
