// SPDX-License-Identifier: LGPL-2.1-or-later
//! Real virsh through the interposer to libvirt's real daemons, with the real driver on
//! a backend in memory. Skipped, with the reason printed, where there is no libvirt.
#![allow(clippy::unwrap_used, reason = "test code")]

#[path = "support/real.rs"]
mod real;

use std::fs;
use std::io::{BufRead, BufReader};

use real::{Libvirt, each};

fn with_pool(libvirt: &Libvirt) {
    libvirt.virsh("pool-define-as vms notify --source-name vg0 --target /dev/notify/vms");
    libvirt.virsh("pool-start vms");
}

fn with_dir_pool(libvirt: &Libvirt) {
    let files = libvirt.path("files");
    fs::create_dir(&files).unwrap();
    libvirt.virsh(&format!("pool-define-as files dir --target {}", files.display()));
    libvirt.virsh("pool-start files");
}

#[test]
fn a_pool_lives_its_life() {
    each(|libvirt| {
        with_pool(libvirt);
        let list = libvirt.virsh("pool-list --all --details");
        assert!(list.contains("vms    running"), "{list}");
        let info = libvirt.virsh("pool-info vms");
        assert!(info.contains("State:          running"), "{info}");
        let xml = libvirt.virsh("pool-dumpxml vms");
        assert!(xml.contains("<pool type='notify'>"), "{xml}");
        libvirt.virsh("vol-create-as vms disk0 1G");
        fs::write(
            libvirt.path("vol.xml"),
            "<volume><name>disk1</name><capacity unit='MiB'>64</capacity></volume>",
        )
        .unwrap();
        libvirt.virsh(&format!("vol-create vms {}", libvirt.path("vol.xml").display()));
        let list = libvirt.virsh("vol-list vms");
        assert!(list.contains("disk0") && list.contains("disk1"), "{list}");
        let info = libvirt.virsh("vol-info --pool vms disk0");
        assert!(info.contains("Type:           block"), "{info}");
        assert!(info.contains("Capacity:       1.00 GiB"), "{info}");
        let xml = libvirt.virsh("vol-dumpxml --pool vms disk0");
        assert!(xml.contains("<volume type='block'>"), "{xml}");
        let path = libvirt.virsh("vol-path --pool vms disk0");
        assert_eq!(libvirt.virsh(&format!("vol-name {}", path.trim())).trim(), "disk0");
        assert_eq!(libvirt.virsh(&format!("vol-pool {}", path.trim())).trim(), "vms");
        libvirt.virsh("vol-delete --pool vms disk0; vol-delete --pool vms disk1");
        libvirt.virsh("pool-destroy vms; pool-undefine vms");
        assert!(!libvirt.virsh("pool-list --all --name").contains("vms"));
    });
}

#[test]
fn a_pool_of_another_type_works_as_before() {
    each(|libvirt| {
        with_pool(libvirt);
        with_dir_pool(libvirt);
        libvirt.virsh("vol-create-as files one 1M");
        for command in [
            "pool-dumpxml files",
            "pool-info files",
            "vol-list files --details",
            "vol-dumpxml --pool files one",
            "pool-uuid files",
        ] {
            assert_eq!(libvirt.virsh(command), libvirt.directly(command).out, "{command}");
        }
        let names = libvirt.virsh("pool-list --all --name");
        let names: Vec<&str> = names.split_whitespace().collect();
        assert_eq!(names, ["files", "vms"]);
        assert_eq!(libvirt.directly("pool-list --all --name").out.trim(), "files");
        let dirs = libvirt.virsh("pool-list --all --name --type dir");
        assert_eq!(dirs.trim(), "files");
        libvirt.virsh("vol-delete --pool files one; pool-destroy files; pool-undefine files");
    });
}

#[test]
fn both_sides_know_each_others_names() {
    each(|libvirt| {
        with_pool(libvirt);
        with_dir_pool(libvirt);
        let error = libvirt.fails("pool-define-as vms dir --target /tmp/vms");
        assert!(error.contains("pool 'vms' already exists with uuid"), "{error}");
        let error = libvirt.fails("pool-create-as vms dir --target /tmp/vms");
        assert!(error.contains("pool 'vms' already exists with uuid"), "{error}");
        let error = libvirt.fails("pool-define-as files notify --source-name vg0");
        assert!(error.contains("pool 'files' already exists with uuid"), "{error}");
    });
}

#[test]
fn what_cannot_be_is_refused_with_libvirts_words() {
    each(|libvirt| {
        with_pool(libvirt);
        let error = libvirt.fails("pool-info nosuch");
        let expected = "Storage pool not found: no storage pool with matching name 'nosuch'";
        assert!(error.contains(expected), "{error}");
        let error = libvirt.fails("vol-info --pool vms nosuch");
        assert!(error.contains("Storage volume not found"), "{error}");
        libvirt.fails("vol-create-as vms zero 0");
        libvirt.fails("vol-create-as vms ../x 1G");
        libvirt.virsh("vol-create-as vms twice 1G");
        let error = libvirt.fails("vol-create-as vms twice 1G");
        assert!(error.contains("exists"), "{error}");
        assert!(libvirt.virsh("vol-list vms").contains("twice"));
    });
}

#[test]
fn a_read_only_client_looks_and_does_not_touch() {
    each(|libvirt| {
        with_pool(libvirt);
        with_dir_pool(libvirt);
        let list = libvirt.read_only("pool-list --name --all");
        assert!(list.out.contains("vms") && list.out.contains("files"), "{list:?}");
        for command in ["pool-destroy vms", "pool-destroy files", "vol-create-as vms x 1M"] {
            let said = libvirt.read_only(command);
            assert!(!said.ok && said.err.contains("read only access prevents"), "{said:?}");
        }
        assert!(libvirt.virsh("pool-info vms").contains("running"));
    });
}

#[test]
fn virsh_hears_of_both_sides() {
    each(|libvirt| {
        with_dir_pool(libvirt);
        let mut listener = libvirt.spawn("pool-event --event lifecycle --loop");
        let mut lines = BufReader::new(listener.stdout.take().unwrap()).lines();
        // Until the listener has registered, nobody tells it anything: go on making
        // events until one arrives.
        let events = std::thread::scope(|scope| {
            let (stop, stopped) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || {
                while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                    libvirt.virsh("pool-define-as vms notify --source-name vg0; pool-undefine vms");
                    libvirt.virsh("pool-destroy files; pool-start files");
                }
            });
            let mut events = String::new();
            while !(events.contains("storage pool vms: Defined")
                && events.contains("storage pool vms: Undefined")
                && events.contains("storage pool files: Stopped"))
            {
                events += &(lines.next().unwrap().unwrap() + "\n");
            }
            drop(stop);
            events
        });
        assert!(events.contains("event 'lifecycle'"), "{events}");
        listener.kill().unwrap();
        listener.wait().unwrap();
    });
}

#[test]
fn content_goes_up_and_comes_down() {
    each(|libvirt| {
        with_pool(libvirt);
        with_dir_pool(libvirt);
        let (source, target) = (libvirt.path("source"), libvirt.path("target"));
        let content: Vec<u8> = (0..3_000_000u32).map(|at| (at % 253) as u8).collect();
        fs::write(&source, &content).unwrap();
        for pool in ["vms", "files"] {
            libvirt.virsh(&format!("vol-create-as {pool} disk 4M"));
            libvirt.virsh(&format!("vol-upload --pool {pool} disk {}", source.display()));
            let length = content.len();
            let target = target.display();
            libvirt.virsh(&format!("vol-download --pool {pool} disk {target} --length {length}"));
            assert_eq!(fs::read(libvirt.path("target")).unwrap(), content, "{pool}");
        }
    });
}

#[test]
fn the_daemon_says_that_it_knows_the_type() {
    each(|libvirt| {
        let capabilities = libvirt.virsh("pool-capabilities");
        assert!(capabilities.contains("<pool type='notify' supported='yes'"), "{capabilities}");
        assert!(capabilities.contains("<pool type='dir' supported='yes'"), "{capabilities}");
        assert!(capabilities.trim_end().ends_with("</storagepoolCapabilities>"), "{capabilities}");
    });
}
