// SPDX-License-Identifier: LGPL-2.1-or-later
//! Setting up and undoing, on a host whose systemd is a script.

use std::collections::BTreeMap;
use std::io::Write;

use tempfile::TempDir;

use super::*;

/// Keeps what is active and enabled as files, and what it was told in a log. The sockets listen
/// where the last `ListenStream=` of their drop-in says. The call whose number stands in `fail`
/// fails: before its effect, or after it where `late` is there.
const SYSTEMCTL: &str = r#"#!/bin/sh
root=${0%/*}
echo "$@" >> "$root/log"
fail() {
    [ -e "$root/fail" ] || return 0
    read -r number < "$root/fail"
    [ "$(wc -l < "$root/log")" != "$number" ] || { echo no luck >&2; exit 1; }
}
[ -e "$root/late" ] || fail
case "$1" in
    stop)
        shift
        for unit; do
            rm -f "$root/active/$unit"
            case "$unit" in
                # BindsTo= of the others.
                libvirtd.socket|virtstoraged.socket)
                    for kind in ro admin tcp tls; do
                        rm -f "$root/active/${unit%.socket}-$kind.socket"
                    done;;
            esac
        done;;
    start) shift; for unit; do touch "$root/active/$unit"; done;;
    enable) shift 2; for unit; do touch "$root/active/$unit" "$root/enabled/$unit"; done;;
    disable) shift 2; for unit; do rm -f "$root/active/$unit" "$root/enabled/$unit"; done;;
    show)
        case "$4" in
            ActiveState) value=inactive; [ ! -e "$root/active/$5" ] || value=active;;
            UnitFileState) value=disabled; [ ! -e "$root/enabled/$5" ] || value=enabled;;
        esac
        for file in "$root/units/$5" "$root/etc/systemd/system/$5.d/virtnotify.conf"; do
            [ -e "$file" ] || continue
            case "$4" in
                ActiveState|UnitFileState) ;;
                LoadState) value=loaded;;
                Listen) value=$(sed -n "s/^ListenStream=//p" "$file" | tail -1);;
                *) new=$(sed -n "s/^$4=//p" "$file" | tail -1); value=${new:-$value};;
            esac
        done
        echo "$value";;
esac
status=$?
fail
exit $status
"#;

/// Makes a program, by another process: a child that this one forks meanwhile would have the file
/// open for writing, and then it cannot be run.
fn install(text: &str, path: &Path) {
    let mut command = Command::new("install");
    command.args(["-m", "755", "/dev/stdin"]).arg(path).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

struct Made {
    dir: TempDir,
    host: Host,
}

impl Made {
    fn new(daemon: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let at = |path: &str| dir.path().join(path);
        for path in ["active", "enabled", "units", "etc/systemd/system", "run"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        install(SYSTEMCTL, &at("systemctl"));
        for suffix in ["", "-ro"] {
            let unit = format!("{daemon}{suffix}.socket");
            let text = "ListenStream=/run/libvirt/x\nSocketMode=0660\nSocketGroup=libvirt\n";
            fs::write(at("units").join(&unit), text).unwrap();
            fs::write(at("active").join(&unit), "").unwrap();
            fs::write(at("enabled").join(&unit), "").unwrap();
        }
        // Of the others one is in use.
        let admin = format!("{daemon}-admin.socket");
        fs::write(at("active").join(admin), "").unwrap();
        let host = Host { root: dir.path().to_owned(), systemctl: at("systemctl") };
        Made { dir, host }
    }

    /// Every file of the host but the log, and what is in it.
    fn everything(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut directories = vec![self.dir.path().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    found.insert(path.clone(), String::new());
                    directories.push(path);
                } else if !path.ends_with("log") {
                    let text = fs::read_to_string(&path).unwrap_or_default();
                    found.insert(path, text);
                }
            }
        }
        found
    }

    /// The calls of systemctl.
    fn log(&self) -> Vec<String> {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap();
        log.lines().map(str::to_owned).collect()
    }

    fn drop_in(&self, unit: &str) -> String {
        fs::read_to_string(self.host.drop_in(unit)).unwrap()
    }
}

#[test]
fn what_is_set_up_is_undone_to_the_last_file() {
    for (daemon, vms) in [("virtstoraged", "virtqemud"), ("libvirtd", "libvirtd")] {
        let made = Made::new(daemon);
        fs::write(made.dir.path().join(format!("active/{daemon}.service")), "").unwrap();
        let before = made.everything();
        let report = setup(&made.host).unwrap();
        assert_eq!(report.done.len(), 8, "{report:?}");
        let ours = made.drop_in("virtnotify-proxy.socket");
        assert!(ours.contains("SocketMode=0660\nSocketGroup=libvirt\n"), "{ours}");
        assert!(made.drop_in(&format!("{daemon}.socket")).contains("SocketMode=0600"));
        let active = |unit: &str| made.dir.path().join("active").join(unit).exists();
        assert!(active(&format!("{daemon}-admin.socket")), "stopped and not started again");
        assert!(!active(&format!("{daemon}-tls.socket")), "started and was not in use");
        assert!(active("virtnotifyd.service") && active("virtnotify-control.service"));
        assert!(
            made.drop_in(&format!("{vms}.service"))
                .contains("After=virtnotifyd.service virtnotify-proxy.service")
        );
        let set_up = made.everything();
        // Again: nothing to do, and who may connect is not forgotten.
        assert_eq!(setup(&made.host).unwrap(), Report::default());
        assert_eq!(made.everything(), set_up);
        undo(&made.host).unwrap();
        assert_eq!(made.everything(), before);
        assert_eq!(undo(&made.host).unwrap(), Report::default());
    }
}

#[test]
fn a_run_that_was_cut_off_is_finished_or_undone() {
    let made = Made::new("libvirtd");
    let before = made.everything();
    setup(&made.host).unwrap();
    let set_up = made.everything();
    fs::remove_file(made.host.drop_in("virtnotify-proxy.service")).unwrap();
    fs::remove_file(made.dir.path().join("active/virtnotify-proxy.service")).unwrap();
    setup(&made.host).unwrap();
    assert_eq!(made.everything(), set_up);
    fs::remove_file(made.host.drop_in("libvirtd.socket")).unwrap();
    undo(&made.host).unwrap();
    assert_eq!(made.everything(), before);
}

/// Each command of systemd fails once, with its effect and without: what it says names it, and the
/// next run ends as one that met no failure.
#[test]
fn a_systemctl_that_fails_is_named_and_the_next_run_goes_on() {
    let made = |undone: bool| {
        let made = Made::new("virtstoraged");
        fs::write(made.dir.path().join("active/virtstoraged.service"), "").unwrap();
        if undone {
            setup(&made.host).unwrap();
            fs::remove_file(made.dir.path().join("log")).unwrap();
        }
        made
    };
    for undone in [false, true] {
        let work = |host: &Host| if undone { undo(host) } else { setup(host) };
        let whole = made(undone);
        work(&whole.host).unwrap();
        let calls = whole.log();
        for (number, late) in (1..=calls.len()).flat_map(|n| [(n, false), (n, true)]) {
            let call = &calls[number - 1];
            // What asks has no effect.
            if late && call.starts_with("show") {
                continue;
            }
            let made = made(undone);
            let at = |path: &str| made.dir.path().join(path);
            fs::write(at("fail"), format!("{number}\n")).unwrap();
            if late {
                fs::write(at("late"), "").unwrap();
            }
            let first = work(&made.host);
            assert_eq!(made.log()[number - 1], *call);
            let sentence = format!("'systemctl {call}' failed: no luck");
            assert_eq!(first.unwrap_err().to_string(), sentence);
            fs::remove_file(at("fail")).unwrap();
            let _ = fs::remove_file(at("late"));
            work(&made.host).unwrap();
            let relative = |made: &Made| -> BTreeMap<PathBuf, String> {
                let all = made.everything().into_iter();
                all.map(|(p, text)| (p.strip_prefix(made.dir.path()).unwrap().to_owned(), text))
                    .collect()
            };
            assert_eq!(relative(&made), relative(&whole), "{call}, late: {late}");
        }
    }
}

#[test]
fn a_packages_drop_in_is_hidden_and_shown_again() {
    let made = Made::new("virtstoraged");
    let vendor = made.dir.path().join("usr/lib/systemd/system/virtstoraged.socket.d");
    fs::create_dir_all(&vendor).unwrap();
    fs::write(vendor.join(FILE), "[Socket]\n").unwrap();
    setup(&made.host).unwrap();
    undo(&made.host).unwrap();
    let link = fs::read_link(made.host.drop_in("virtstoraged.socket")).unwrap();
    assert_eq!(link, Path::new("/dev/null"));
    assert_eq!(undo(&made.host).unwrap(), Report::default());
    setup(&made.host).unwrap();
    assert!(made.drop_in("virtstoraged.socket").contains("upstream-sock"));
}

#[test]
fn a_packages_drop_in_for_the_other_libvirt_stays_as_it_is() {
    let made = Made::new("libvirtd");
    let vendor = made.dir.path().join("usr/lib/systemd/system/virtstoraged.socket.d");
    fs::create_dir_all(&vendor).unwrap();
    fs::write(vendor.join(FILE), "[Socket]\n").unwrap();
    let before = made.everything();
    setup(&made.host).unwrap();
    undo(&made.host).unwrap();
    assert_eq!(made.everything(), before);
}

#[test]
fn active_pools_and_a_host_without_libvirt_are_refused() {
    let made = Made::new("libvirtd");
    setup(&made.host).unwrap();
    let pools = made.dir.path().join("run/virtnotify/pools");
    fs::create_dir_all(&pools).unwrap();
    fs::write(pools.join("vms.xml"), "").unwrap();
    fs::write(pools.join("autostarted"), "").unwrap();
    let set_up = made.everything();
    let error = undo(&made.host).unwrap_err().to_string();
    assert!(error.starts_with("these pools are active: vms;"), "{error}");
    assert_eq!(made.everything(), set_up);
    let made = Made::new("x");
    assert!(matches!(setup(&made.host), Err(SetupError::NoLibvirt)));
}

#[test]
fn another_authentication_than_ours_is_noted() {
    let made = Made::new("libvirtd");
    fs::create_dir_all(made.dir.path().join("etc/libvirt")).unwrap();
    let path = made.dir.path().join("etc/libvirt/libvirtd.conf");
    fs::write(path, "#auth_unix_ro = \"x\"\nauth_unix_rw = \"none\"\n").unwrap();
    let report = setup(&made.host).unwrap();
    assert_eq!(report.notes.len(), 1);
    assert!(report.notes[0].contains("auth_unix_rw = \"none\""), "{:?}", report.notes);
}

#[test]
fn sockets_for_other_hosts_listen_again() {
    let made = Made::new("libvirtd");
    let at = |unit: &str| made.dir.path().join("active").join(unit);
    for unit in ["libvirtd-tcp.socket", "libvirtd-tls.socket"] {
        fs::write(at(unit), "").unwrap();
    }
    for work in [setup, undo] {
        work(&made.host).unwrap();
        for kind in ["", "-ro", "-admin", "-tcp", "-tls"] {
            let unit = format!("libvirtd{kind}.socket");
            assert!(at(&unit).exists(), "{unit}");
        }
    }
}

/// virtnotify-proxy reads that by itself, and asks as libvirt does.
#[test]
fn a_host_that_asks_about_each_object_is_set_up() {
    let made = Made::new("libvirtd");
    fs::create_dir_all(made.dir.path().join("etc/libvirt")).unwrap();
    let path = made.dir.path().join("etc/libvirt/libvirtd.conf");
    fs::write(path, "access_drivers = [ \"polkit\" ]\n").unwrap();
    assert_eq!(setup(&made.host).unwrap().notes, [""; 0]);
}

#[test]
fn an_authentication_that_we_cannot_ask_for_is_refused() {
    for line in
        ["auth_unix_rw = \"sasl\"", "auth_unix_rw='sasl' # over SSH", "auth_unix_ro = \"sasl\""]
    {
        let made = Made::new("libvirtd");
        fs::create_dir_all(made.dir.path().join("etc/libvirt")).unwrap();
        let path = made.dir.path().join("etc/libvirt/libvirtd.conf");
        fs::write(path, format!("{line}\n")).unwrap();
        let before = made.everything();
        let refused = setup(&made.host).unwrap_err().to_string();
        let key = &line[..12];
        let sentence =
            format!("/etc/libvirt/libvirtd.conf says {key} = \"sasl\", and virtnotify-proxy can");
        assert!(refused.starts_with(&sentence), "{refused}");
        assert_eq!(made.everything(), before);
    }
}
