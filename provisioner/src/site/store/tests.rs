//! What was saved stays, and who may open it.

use super::*;

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = Store::open(&path).unwrap();
    store.write(|tx| tx.put(MACHINES, "mc_1", &"one")).await.unwrap();
    let changes = (0..200).map(|n| store.write(move |tx| tx.put(MACHINES, &format!("m{n}"), &n)));
    for change in futures_util::future::join_all(changes).await {
        change.unwrap();
    }
    drop(store);
    let store = Store::open(&path).unwrap();
    let look = store.look().unwrap();
    assert_eq!(look.get::<String>(MACHINES, "mc_1").unwrap().unwrap(), "one");
    assert_eq!(look.all(MACHINES, "m").unwrap().len(), 201);
}

#[test]
fn a_store_that_is_in_use_is_left_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let _open = Store::open(&path).unwrap();
    let said = Store::open(&path).err().unwrap().to_string();
    assert!(said.contains(&format!("another provisioner serves {}", dir.path().display())), "{said}");
    assert!(!said.contains("move"), "{said}");
    assert!(in_use(&path) && !in_use(&dir.path().join("another.redb")));
}

#[tokio::test]
async fn an_older_program_refuses_a_newer_store_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = Store::open(&path).unwrap();
    store.write(|tx| tx.put(META, "schema", &(SCHEMA + 1))).await.unwrap();
    drop(store);
    let error = Store::open(&path).err().unwrap().to_string();
    assert!(error.contains("run the newer program"), "{error}");
}
