//! Backups: what is written comes back, and what is damaged restores nothing.
#![allow(clippy::unwrap_used)]

use store::{Backup, BackupError, Body, Error, RangeOptions, Storage, Store, Transaction};

async fn filled(dir: &std::path::Path) -> Store {
    let store = Store::open(dir).unwrap();
    for n in 0..20 {
        let transaction = Transaction::new()
            .put(format!("/a/{n}"), Body::Plain(vec![n; 100]))
            .put(format!("/b/{n}"), Body::Plain(vec![n; 10]));
        store.commit(transaction).await.unwrap();
    }
    store.commit(Transaction::new().delete("/a/3", Body::Plain(Vec::new()))).await.unwrap();
    store
}

fn backup(store: &Store) -> Backup {
    let range = store.range("", RangeOptions::default()).unwrap();
    let files = vec![("pki/ca.key".to_owned(), b"secret".to_vec())];
    Backup { revision: range.revision, entries: range.entries, files }
}

#[tokio::test]
async fn what_is_backed_up_is_restored() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let taken = backup(&store);
    let mut file = Vec::new();
    taken.write(&mut file).unwrap();
    let read = Backup::read(file.as_slice()).unwrap();
    assert_eq!(read, taken);

    let other = tempfile::tempdir().unwrap();
    let revision = read.restore(other.path()).unwrap();
    let restored = Store::open(other.path()).unwrap();
    assert_eq!(restored.revision(), revision);
    assert!(revision > store.revision());
    assert_eq!(restored.range("", RangeOptions::default()).unwrap().entries, taken.entries);
    // Whoever saw the old store learns that it must list again.
    assert!(matches!(restored.watch("/a/", store.revision()), Err(Error::Compacted { .. })));
    let next = restored.commit(Transaction::new().put("/a/new", Body::Plain(Vec::new()))).await.unwrap();
    assert_eq!(next, revision + 1);
    drop(restored);
    let error = read.restore(other.path()).unwrap_err();
    assert!(matches!(error, BackupError::NotEmpty { .. }), "{error}");
}

#[tokio::test]
async fn a_damaged_backup_restores_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = Vec::new();
    backup(&filled(dir.path()).await).write(&mut file).unwrap();
    for cut in [0, 5, 18, 30, file.len() / 2, file.len() - 1] {
        let error = Backup::read(&file[..cut]).unwrap_err();
        assert!(matches!(error, BackupError::Foreign | BackupError::Damaged { .. }), "{cut}: {error}");
    }
    for place in (0..file.len()).step_by(37) {
        let mut changed = file.clone();
        changed[place] ^= 0x10;
        assert!(Backup::read(changed.as_slice()).is_err(), "a flipped bit at {place} went unnoticed");
    }
}

#[tokio::test]
async fn what_is_whole_in_a_damaged_store_can_be_saved() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path()).await);
    let file = dir.path().join("data.redb");
    let mut bytes = std::fs::read(&file).unwrap();
    // The values of the record that holds one hundred times 7, wherever redb put it.
    let places: Vec<usize> = (0..bytes.len() - 100).filter(|at| bytes[*at..at + 100] == [7; 100]).collect();
    assert!(!places.is_empty());
    for place in &places {
        bytes[*place] ^= 1;
    }
    std::fs::write(&file, &bytes).unwrap();
    assert!(matches!(Store::open(dir.path()), Err(Error::Damaged { .. })));
    // redb marks a file that it opens, also one that it then refuses.
    let bytes = std::fs::read(&file).unwrap();
    match store::salvage(dir.path()) {
        Ok(salvaged) => {
            assert_eq!(salvaged.lost, 1);
            assert!(salvaged.backup.entries.iter().any(|entry| &*entry.key == "/a/8"));
            assert!(!salvaged.backup.entries.iter().any(|entry| &*entry.key == "/a/7" || &*entry.key == "/a/3"));
        }
        // redb may refuse the file by the checksums of its own pages; then it says so.
        Err(error) => assert!(matches!(error, Error::Damaged { .. }), "{error}"),
    }
    assert_eq!(std::fs::read(&file).unwrap(), bytes, "the damaged file is left as it was");
}
