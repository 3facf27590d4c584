// SPDX-License-Identifier: LGPL-2.1-or-later
//! Real virsh through the interposer to libvirt's real daemons, with the real driver on
//! a backend in memory. `cargo xtask test` runs them, in the root of the lab's hosts.
#![allow(clippy::unwrap_used, reason = "test code")]

#[path = "support/real.rs"]
mod real;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Command;

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
#[ignore = "needs libvirt's daemons"]
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
#[ignore = "needs libvirt's daemons"]
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
#[ignore = "needs libvirt's daemons"]
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
        // libvirt reads this, and our parser does not.
        let target = libvirt.path("shadow");
        fs::create_dir(&target).unwrap();
        let xml = format!(
            "<!DOCTYPE pool>\n<pool type='dir'><name>vms</name><target><path>{}</path></target></pool>",
            target.display()
        );
        fs::write(libvirt.path("shadow.xml"), xml).unwrap();
        for command in ["pool-define", "pool-create"] {
            let error =
                libvirt.fails(&format!("{command} {}", libvirt.path("shadow.xml").display()));
            assert!(error.contains("pool 'vms' already exists with uuid"), "{error}");
            let theirs = libvirt.directly("pool-list --all --name").out;
            assert_eq!(theirs.trim(), "files");
        }
    });
}

#[test]
#[ignore = "needs libvirt's daemons"]
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
#[ignore = "needs libvirt's daemons"]
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

/// What virsh hears of an event while another client acts, until it has heard all of `expected`.
fn heard(libvirt: &Libvirt, event: &str, act: &[&str], expected: &[&str]) {
    let mut listener = libvirt.spawn(&format!("pool-event --event {event} --loop"));
    let mut lines = BufReader::new(listener.stdout.take().unwrap()).lines();
    // Until the listener has registered, nobody tells it anything: go on making
    // events until one arrives.
    let events = std::thread::scope(|scope| {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                act.iter().for_each(|commands| drop(libvirt.virsh(commands)));
            }
        });
        let mut events = String::new();
        while !expected.iter().all(|text| events.contains(text)) {
            events += &(lines.next().unwrap().unwrap() + "\n");
        }
        drop(stop);
        events
    });
    assert!(events.contains(&format!("event '{event}'")), "{events}");
    listener.kill().unwrap();
    listener.wait().unwrap();
}

#[test]
#[ignore = "needs libvirt's daemons"]
fn virsh_hears_of_both_sides() {
    each(|libvirt| {
        with_dir_pool(libvirt);
        let act = [
            "pool-define-as vms notify --source-name vg0; pool-undefine vms",
            "pool-destroy files; pool-start files",
        ];
        let expected = [
            "storage pool vms: Defined",
            "storage pool vms: Undefined",
            "storage pool files: Stopped",
        ];
        heard(libvirt, "lifecycle", &act, &expected);
        with_pool(libvirt);
        let act = ["pool-refresh vms; pool-refresh files"];
        heard(libvirt, "refresh", &act, &["storage pool vms", "storage pool files"]);
        // Those who heard it are gone, and the next client is heard.
        libvirt.virsh("pool-destroy vms; pool-undefine vms; pool-list --all");
    });
}

#[test]
#[ignore = "needs libvirt's daemons"]
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

/// How much of a file is stored.
fn stored(path: &std::path::Path) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(&fs::metadata(path).unwrap()) * 512
}

#[test]
#[ignore = "needs libvirt's daemons"]
fn volumes_are_cloned_within_and_between_the_types() {
    each(|libvirt| {
        with_pool(libvirt);
        with_dir_pool(libvirt);
        let (source, target) = (libvirt.path("source"), libvirt.path("target"));
        // Data, 13 MiB of nothing, data up to the last byte.
        let mut content = vec![0; 16 << 20];
        content[..1 << 20].fill(7);
        content[14 << 20..].fill(9);
        fs::write(&source, &content).unwrap();
        libvirt.virsh("vol-create-as files disk 16M --allocation 0");
        libvirt.virsh(&format!("vol-upload --pool files disk {} --sparse", source.display()));
        let xml = |name: &str, more: &str| {
            let path = libvirt.path(name);
            let text = format!("<volume><name>{name}</name>{more}</volume>");
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let thin = "<allocation>0</allocation>";
        for (name, into, from) in [
            ("one", "vms", "files disk"),
            ("two", "vms", "vms one"),
            ("three", "files", "vms two"),
            ("four", "vms", "files three"),
        ] {
            let (from_pool, from) = from.split_once(' ').unwrap();
            let xml = xml(name, thin);
            let said = libvirt
                .virsh(&format!("vol-create-from {into} {xml} {from} --inputpool {from_pool}"));
            assert!(said.contains(&format!("Vol {name} created from input vol {from}")), "{said}");
            libvirt.virsh(&format!("vol-download --pool {into} {name} {}", target.display()));
            assert!(fs::read(&target).unwrap() == content, "{name} is not what {from} is");
            let path = libvirt.virsh(&format!("vol-path --pool {into} {name}"));
            let device = if into == "vms" {
                libvirt.path("dev").join("vms").join(name)
            } else {
                path.trim().into()
            };
            assert!(stored(&device) < 8 << 20, "{name}: {} bytes", stored(&device));
        }
        libvirt.virsh("vol-clone --pool vms one five");
        // A larger one; one of a name that is taken; what is not raw; what is not there.
        let larger = xml("six", "<capacity unit='M'>80</capacity>");
        libvirt.virsh(&format!("vol-create-from vms {larger} disk --inputpool files"));
        let info = libvirt.virsh("vol-info --pool vms six");
        assert!(info.contains("Capacity:       80.00 MiB"), "{info}");
        let taken = xml("one", "");
        let error = libvirt.fails(&format!("vol-create-from vms {taken} disk --inputpool files"));
        assert!(error.contains("storage volume 'one' exists already"), "{error}");
        let taken = xml("disk", "");
        let error = libvirt.fails(&format!("vol-create-from files {taken} one --inputpool vms"));
        assert!(error.contains("exists already"), "{error}");
        let qcow2 = "<target><format type='qcow2'/></target>";
        let wanted = xml("seven", qcow2);
        let error = libvirt.fails(&format!("vol-create-from files {wanted} one --inputpool vms"));
        assert!(error.contains("its format is 'raw', not 'qcow2'"), "{error}");
        // A header of qcow2 (version 2, clusters of 64 KiB, 1 MiB) is what libvirt looks at.
        let mut image = vec![0; 1 << 16];
        image[..8].copy_from_slice(b"QFI\xfb\0\0\0\x02");
        image[23] = 16;
        image[24..32].copy_from_slice(&(1_u64 << 20).to_be_bytes());
        fs::write(libvirt.path("files").join("image"), image).unwrap();
        libvirt.virsh("pool-refresh files");
        let wanted = xml("seven", "");
        let error = libvirt.fails(&format!("vol-create-from vms {wanted} image --inputpool files"));
        assert!(error.contains("convert it first"), "{error}");
        libvirt.virsh("pool-destroy files");
        libvirt.fails(&format!("vol-create-from files {wanted} one --inputpool vms"));
        let list = libvirt.virsh("vol-list vms");
        assert!(!list.contains("seven"), "{list}");
    });
}

#[test]
#[ignore = "needs libvirt's daemons"]
fn resizing_wiping_sources_and_validation_work_from_virsh() {
    each(|libvirt| {
        with_pool(libvirt);
        libvirt.virsh("vol-create-as vms disk 64M");
        let size = || {
            let info = libvirt.virsh("vol-info --pool vms disk --bytes");
            let line = info.lines().find(|line| line.starts_with("Capacity:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 20
        };
        for (arguments, expected) in [
            ("128M", 128),
            ("16M --delta", 144),
            ("44M --delta --shrink", 100),
            ("--shrink -- -36M", 64),
            ("32M --shrink", 32),
            ("64M --allocate", 64),
        ] {
            libvirt.virsh(&format!("vol-resize --pool vms disk {arguments}"));
            assert_eq!(size(), expected, "{arguments}");
        }
        let error = libvirt.fails("vol-resize --pool vms disk 32M");
        assert!(error.contains("can't shrink capacity below existing allocation"), "{error}");
        for algorithm in [
            "zero",
            "nnsa",
            "dod",
            "bsi",
            "gutmann",
            "schneier",
            "pfitzner7",
            "pfitzner33",
            "random",
            "trim",
        ] {
            libvirt.virsh(&format!("vol-wipe --pool vms disk --algorithm {algorithm}"));
        }
        let sources = libvirt.virsh("find-storage-pool-sources notify");
        assert!(sources.contains("<name>vg0</name>"), "{sources}");
        let sources = libvirt.virsh("find-storage-pool-sources-as notify");
        assert!(sources.contains("<format type='lvm2'/>"), "{sources}");
        let pool = |inside: &str| {
            let path = libvirt.path("pool.xml");
            let text = format!("<pool type='notify'><name>other</name>{inside}</pool>");
            fs::write(&path, text).unwrap();
            format!("pool-define --validate {}", path.display())
        };
        let policy = "<n:policy xmlns:n='https://virtnotify.org/xmlns/pool/1.0'>\
                      <n:full action='pause'/></n:policy>";
        libvirt.virsh(&pool(&format!("<source><name>vg9</name></source>{policy}")));
        let xml = libvirt.virsh("pool-dumpxml other");
        assert!(xml.contains("<notify:full action='pause'/>"), "{xml}");
        let error = libvirt.fails(&pool("<nonsense/>"));
        assert!(error.contains("XML document failed to validate against schema"), "{error}");
        libvirt.virsh("pool-undefine other");
    });
}

#[test]
#[ignore = "needs libvirt's daemons"]
fn virt_install_sees_a_type_that_it_knows_and_others_see_what_it_is() {
    const SCRIPT: &str = "import libvirt, sys\n\
        pool = libvirt.open(sys.argv[1]).storagePoolLookupByName('vms')\n\
        print(pool.XMLDesc(0).split('>')[0])\n";
    each(|libvirt| {
        with_pool(libvirt);
        for (name, kind) in [("virt-install", "zfs"), ("virt-clone", "zfs"), ("other", "notify")] {
            let script = libvirt.path(name);
            fs::write(&script, SCRIPT).unwrap();
            let mut python = Command::new("/usr/bin/python3");
            let output = python.arg(script).arg(libvirt.uri("ours")).output();
            let output = output.unwrap();
            assert!(output.status.success(), "python3 with libvirt's bindings: {output:?}");
            let said = String::from_utf8(output.stdout).unwrap();
            assert_eq!(said.trim(), format!("<pool type='{kind}'"), "{name}");
        }
    });
}

/// libvirtd looks up a volume's pool in its own process: what it says of that is explained, when
/// a VM starts and when a disk is added.
#[test]
#[ignore = "needs libvirt's daemons"]
fn a_volume_disk_in_front_of_libvirtd_ends_in_a_sentence() {
    each(|libvirt| {
        if libvirt.name != "libvirtd" {
            return;
        }
        let capabilities = libvirt.virsh("capabilities");
        assert!(capabilities.contains("<domain type='qemu'"), "no QEMU here: {capabilities}");
        with_pool(libvirt);
        libvirt.virsh("vol-create-as vms disk0 1M");
        let disk = "<disk type='volume' device='disk'><driver name='qemu' type='raw'/>\
                    <source pool='vms' volume='disk0'/><target dev='vda' bus='virtio'/></disk>";
        let domain = format!(
            "<domain type='qemu'><name>vm</name><memory unit='MiB'>64</memory>\
             <os><type arch='x86_64'>hvm</type></os><devices>{disk}</devices></domain>"
        );
        fs::write(libvirt.path("vm.xml"), domain).unwrap();
        libvirt.virsh(&format!("define {}", libvirt.path("vm.xml").display()));
        let error = libvirt.fails("start vm");
        let expected = "give the disk as <disk type='block'> with <source dev='/dev/notify/vms/";
        assert!(error.contains(expected), "{error}");
        libvirt.virsh("undefine vm");
    });
}

#[test]
#[ignore = "needs libvirt's daemons"]
fn the_daemon_says_that_it_knows_the_type() {
    each(|libvirt| {
        let capabilities = libvirt.virsh("pool-capabilities");
        assert!(capabilities.contains("<pool type='notify' supported='yes'"), "{capabilities}");
        assert!(capabilities.contains("<pool type='dir' supported='yes'"), "{capabilities}");
        assert!(capabilities.trim_end().ends_with("</storagepoolCapabilities>"), "{capabilities}");
    });
}
