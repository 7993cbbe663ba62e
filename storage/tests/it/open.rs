//! What a start finds, mends and refuses.

use std::fs;

use quarry_storage::{ErrorKind, Store, StoreOptions};

use crate::support::*;

#[test]
fn a_second_store_on_the_same_folder_is_locked_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    publish(&store, &key("t", 1), 1, 0);
    let error = try_open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    let text = error.to_string();
    assert!(text.contains("another process holds the store") && text.contains("stop the other quarry"), "{text}");
    assert!(text.contains(dir.path().join("store").to_str().unwrap()), "{text}");
    // The failed attempt harmed nothing, and a clone keeps the lock.
    let clone = store.clone();
    drop(store);
    assert_eq!(try_open(dir.path()).unwrap_err().kind(), ErrorKind::Locked);
    assert!(live(&clone, &key("t", 1)).path.exists());
    drop(clone);
    open(&dir);
}

#[test]
fn a_new_store_is_empty_and_makes_its_folders() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("a/b/store");
    let store =
        Store::open(StoreOptions { gc_grace: std::time::Duration::MAX, ..StoreOptions::new(deep.clone()) }).unwrap();
    assert_eq!(store.dir(), deep);
    assert_eq!((store.snapshot().id().get(), store.snapshot().tables().count()), (0, 0));
    assert!(deep.join("catalog").is_dir() && deep.join("partitions").is_dir());
    assert!(store.jobs().unwrap().is_empty());
    // A grace without end: nothing is ever deleted.
    publish(&store, &key("t", 1), 1, 0);
    publish(&store, &key("t", 1), 2, 0);
    assert_eq!(store.collect_garbage(i64::MAX - 1).unwrap().kept, 1);
}

#[test]
fn a_folder_that_cannot_be_used_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("store"), "a file").unwrap();
    let error = try_open(dir.path()).unwrap_err();
    assert!(error.to_string().contains(dir.path().join("store").to_str().unwrap()), "{error}");
}

#[test]
fn partitions_whose_file_is_missing_or_cut_short_are_not_live() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    for bucket in 1..=3 {
        publish(&store, &key("t", bucket), 4, 0);
    }
    publish(&store, &key("u", 1), 4, 0);
    let id = store.snapshot().id();
    let paths = [key("t", 1), key("t", 2), key("u", 1)].map(|key| live(&store, &key).path.clone());
    drop(store);
    fs::remove_file(&paths[0]).unwrap();
    let file = fs::File::options().write(true).open(&paths[1]).unwrap();
    file.set_len(fs::metadata(&paths[1]).unwrap().len() - 1).unwrap();
    fs::remove_dir_all(paths[2].parent().unwrap()).unwrap();

    let store = open(&dir);
    assert_eq!(contents(&store), [("t 30".to_owned(), 4)]);
    assert!(store.snapshot().id() > id, "answers cached for the old state must not be used");
    assert!(store.snapshot().table(&table("u")).is_some());
    let id = store.snapshot().id();
    drop(store);
    // They are still on record, should their files come back.
    let store = open(&dir);
    assert!(store.snapshot().id() > id);
    publish(&store, &key("t", 1), 1, 0);
    publish(&store, &key("u", 1), 1, 0);
    assert_eq!(contents(&store).len(), 3);
}

#[test]
fn orphans_are_deleted_and_foreign_files_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    publish(&store, &key("t", 1), 1, 0);
    publish(&store, &key("t", 1), 2, 0);
    let wanted = files(dir.path());
    let orphan = wanted[0].with_file_name("all-00000000000003e8.parquet");
    drop(store);
    fs::write(&orphan, "half a file").unwrap();
    let gone = dir.path().join("store/partitions/gone");
    fs::create_dir(&gone).unwrap();
    fs::write(gone.join("all-00000000000000ff.parquet"), "").unwrap();
    let foreign = wanted[0].with_file_name("notes.txt");
    fs::write(&foreign, "mine").unwrap();

    let store = open(&dir);
    assert!(!orphan.exists() && !gone.exists() && foreign.exists());
    fs::remove_file(foreign).unwrap();
    // The live file, and the replaced one, whose grace is not over.
    assert_eq!(files(dir.path()), wanted);
    // The orphan's id is used up as well.
    let file = write(&store, &key("t", 2), 1);
    store.publish(publication(&key("t", 2), file, "", Vec::new()), 0).unwrap();
    let name = live(&store, &key("t", 2)).path.file_name().unwrap().to_owned();
    assert_eq!(name, "19700101T000000.000020-00000000000003e9.parquet");
}

#[test]
fn a_damaged_catalog_is_an_error_with_a_cure() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(&dir));
    let catalog = dir.path().join("store/catalog");
    let manifest = fs::read_dir(&catalog)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("MANIFEST"))
        .unwrap();
    let mut bytes = fs::read(&manifest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&manifest, bytes).unwrap();
    let error = try_open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("quarry fsck --repair"), "{error}");
}
