// SPDX-License-Identifier: LGPL-2.1-or-later
//! Tests of the store: what each moment of a killed daemon leaves behind, and what others do
//! to the files.

use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;

fn store() -> (TempDir, Store) {
    let root = TempDir::new().unwrap();
    let paths =
        Paths { definitions: root.path().join("etc/pools"), state: root.path().join("run/pools") };
    (root, Store::new(paths))
}

fn pool(name: &str, vg: &str) -> PoolDefinition {
    let text =
        format!("<pool type='notify'><name>{name}</name><source><name>{vg}</name></source></pool>");
    PoolDefinition::parse(&text, false).unwrap()
}

#[test]
fn what_is_saved_is_loaded() {
    let (_root, store) = store();
    assert!(store.definitions().0.is_empty());
    let (a, b) = (pool("a", "vg0"), pool("b", "vg1"));
    store.save_definition(&a).unwrap();
    store.save_definition(&b).unwrap();
    store.set_autostart(&b.name, true).unwrap();
    store.set_autostart(&b.name, true).unwrap();
    let (pools, ignored) = store.definitions();
    assert!(ignored.is_empty());
    let stored = |definition: &PoolDefinition, autostart| Stored {
        definition: definition.clone(),
        autostart,
    };
    assert_eq!(pools, [stored(&a, false), stored(&b, true)]);
    let mode = fs::metadata(store.paths.definitions.join("a.xml")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    store.remove_definition(&b.name).unwrap();
    store.remove_definition(&b.name).unwrap();
    store.save_definition(&b).unwrap();
    assert!(!store.definitions().0[1].autostart);
}

#[test]
fn every_moment_of_a_killed_write_leaves_the_old_or_the_new() {
    let (_root, store) = store();
    let (old, new) =
        (pool("a", "vg0"), PoolDefinition { vg: "vg1".parse().unwrap(), ..pool("a", "vg0") });
    let text = new.print(PoolType::Notify, &Standing::default());
    let fresh = store.paths.definitions.join(".a.xml.new");
    store.save_definition(&old).unwrap();
    // Killed while the new text was being written, at any byte of it.
    for at in 0..=text.len() {
        fs::write(&fresh, &text[..at]).unwrap();
        let (pools, ignored) = store.definitions();
        assert!(ignored.is_empty());
        assert_eq!(pools[0].definition, old);
    }
    // Killed after the rename: the new one; and the next write finds no obstacle.
    fs::rename(&fresh, store.paths.definitions.join("a.xml")).unwrap();
    assert_eq!(store.definitions().0[0].definition, new);
    fs::write(&fresh, "half").unwrap();
    store.save_definition(&old).unwrap();
    assert_eq!(store.definitions().0[0].definition, old);
    assert!(!fresh.exists());
}

#[test]
fn a_removal_that_was_killed_is_done_by_the_next() {
    let (_root, store) = store();
    let a = pool("a", "vg0");
    store.save_definition(&a).unwrap();
    store.set_autostart(&a.name, true).unwrap();
    // Killed between the two steps of a removal.
    fs::remove_file(store.link(&a.name)).unwrap();
    assert!(!store.definitions().0[0].autostart);
    store.remove_definition(&a.name).unwrap();
    assert!(store.definitions().0.is_empty());
}

#[test]
fn damaged_files_are_named_and_the_others_count() {
    let (_root, store) = store();
    store.save_definition(&pool("good", "vg0")).unwrap();
    let directory = &store.paths.definitions;
    fs::write(directory.join("empty.xml"), "").unwrap();
    fs::write(directory.join("half.xml"), "<pool type='notify'><name>half").unwrap();
    fs::write(directory.join("binary.xml"), [0xff, 0xfe, 0, 1]).unwrap();
    fs::write(directory.join("other.xml"), "<pool type='notify'><name>good</name></pool>").unwrap();
    fs::write(directory.join("large.xml"), vec![b' '; 2 << 20]).unwrap();
    fs::create_dir(directory.join("dir.xml")).unwrap();
    symlink("nowhere", directory.join("gone.xml")).unwrap();
    fs::write(directory.join("README"), "not ours").unwrap();
    let (pools, ignored) = store.definitions();
    assert_eq!(pools.len(), 1);
    let named: Vec<String> = ignored
        .iter()
        .map(|ignored| ignored.path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    let expected =
        ["binary.xml", "dir.xml", "empty.xml", "gone.xml", "half.xml", "large.xml", "other.xml"];
    assert_eq!(named, expected);
    assert!(ignored[6].to_string().contains("another name, 'good'"), "{}", ignored[6]);
}

#[test]
fn a_directory_that_cannot_be_used_is_an_error_with_its_name() {
    let (root, store) = store();
    fs::write(root.path().join("etc"), "a file in the way").unwrap();
    let error = store.save_definition(&pool("a", "vg0")).unwrap_err();
    assert!(error.to_string().contains("etc/pools"), "{error}");
    let (pools, ignored) = store.definitions();
    assert!(pools.is_empty());
    assert_eq!(ignored.len(), 1);
}

#[test]
fn autostarting_is_remembered_until_a_reboot_empties_the_state() {
    let (_root, store) = store();
    assert!(!store.autostarted());
    store.set_autostarted().unwrap();
    assert!(store.autostarted());
    fs::remove_dir_all(&store.paths.state).unwrap();
    assert!(!store.autostarted());
}
