//! The promises of the admin interface, on a real socket.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::server::{Desk, Guest, converse};
use super::*;

/// What the desk answers to `bytes` by a user with `role`.
async fn said(bytes: &[u8], role: Option<Role>) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let desk = Desk::open(dir.path()).unwrap();
    let mut client = UnixStream::connect(dir.path().join(SOCKET)).await.unwrap();
    let served = async {
        let stream = desk.accept().await.unwrap();
        let guest = Guest { uid: 1000, role, patience: Duration::from_mins(1) };
        converse(stream, guest, async |ask| json!({ "ok": ask.told() })).await;
    };
    let asked = async {
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert!(text.ends_with('\n') && text.matches('\n').count() == 1, "one line answers: {text:?}");
        serde_json::from_str(&text).unwrap()
    };
    tokio::join!(served, asked).1
}

fn refusal(answer: &Value) -> &str {
    answer["error"].as_str().unwrap()
}

#[tokio::test]
async fn every_question_survives_the_wire() {
    let questions = [
        Ask::Machines { all: true },
        Ask::Slots {},
        Ask::Explain { machine: "mc_01".into() },
        Ask::Claims {},
        Ask::Health {},
        Ask::Render { machine: "mc_01".into() },
        Ask::Window { minutes: 15 },
        Ask::Approve { slot: "node-3".into(), code: "WT0T-BSPH-K".into() },
        Ask::Say { machine: "mc_01".into(), word: Some(Said::Retire) },
        Ask::Apply { name: "1-2-site.nbb.part".into() },
        Ask::Report {},
        Ask::Backup {},
        Ask::EstClient { name: "printer".into() },
    ];
    for question in questions {
        let line = serde_json::to_string(&question).unwrap() + "\n";
        assert_eq!(
            said(line.as_bytes(), Some(Role::Admin)).await,
            json!({ "ok": question.told() }),
            "{line}"
        );
        let less = match question.needs() {
            Role::View => None,
            Role::Approve => Some(Role::View),
            Role::Admin => Some(Role::Approve),
        };
        let answer = said(line.as_bytes(), less).await;
        assert!(refusal(&answer).contains(&format!("needs {}", question.needs().word())), "{answer}");
    }
}

#[tokio::test]
async fn a_question_that_is_unknown_misspelt_or_no_json_is_answered_in_words() {
    for line in
        ["{\"do\":\"fly\"}\n", "{\"do\":\"slots\",\"slot\":\"x\"}\n", "hello\n", "\n", "", "\u{0}\u{1}"]
    {
        let answer = said(line.as_bytes(), Some(Role::Admin)).await;
        assert!(refusal(&answer).starts_with("this question is not known here"), "{line:?}: {answer}");
    }
}

#[tokio::test]
async fn a_question_of_64_kilobytes_is_read_and_a_longer_one_is_refused_in_words() {
    let of = |size: usize| {
        let frame = serde_json::to_string(&Ask::Explain { machine: String::new() }).unwrap().len();
        serde_json::to_string(&Ask::Explain { machine: "m".repeat(size - frame - 1) }).unwrap() + "\n"
    };
    let answer = said(of(LIMIT).as_bytes(), Some(Role::View)).await;
    assert!(answer["ok"].is_string(), "{}", answer.to_string().len());
    let answer = said(of(LIMIT + 1).as_bytes(), Some(Role::View)).await;
    assert_eq!(refusal(&answer), "a question has at most 65536 bytes");
}

#[tokio::test]
async fn who_connects_and_says_nothing_is_told_so_and_let_go() {
    let (mut client, server) = UnixStream::pair().unwrap();
    let guest = Guest { uid: 1000, role: Some(Role::Admin), patience: Duration::ZERO };
    converse(server, guest, async |_| json!({})).await;
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    assert!(text.contains("no question came in time"), "{text}");
}

#[tokio::test]
async fn only_the_owner_reaches_the_socket_unless_others_were_given_roles() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let mode = || std::fs::metadata(dir.path().join(SOCKET)).unwrap().permissions().mode() & 0o777;
    let desk = Desk::open(dir.path()).unwrap();
    assert_eq!(mode(), 0o600);
    drop(desk);
    assert!(!dir.path().join(SOCKET).exists(), "it goes with the program");
    std::fs::write(dir.path().join(ROLES), r#"{"users": {"1000": "view"}}"#).unwrap();
    let _desk = Desk::open(dir.path()).unwrap();
    assert_eq!(mode(), 0o666);
}

#[test]
fn root_and_the_owner_may_do_everything_others_what_they_were_given() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join(ROLES),
        r#"{"users": {"1000": "view", "1001": "approve"}, "groups": {"27": "approve"}}"#,
    )
    .unwrap();
    let roles = Roles::load(dir.path());
    assert_eq!(roles.of(900, 0, 0), Some(Role::Admin));
    assert_eq!(roles.of(900, 900, 900), Some(Role::Admin));
    assert_eq!(roles.of(900, 1000, 1000), Some(Role::View));
    assert_eq!(roles.of(900, 1000, 27), Some(Role::Approve), "the greater of the two");
    assert_eq!(roles.of(900, 2000, 2000), None);
}

#[test]
fn who_may_look_changes_nothing_and_sees_no_secret_and_who_may_approve_takes_no_copy() {
    let look = [Ask::Machines { all: true }, Ask::Slots {}, Ask::Claims {}, Ask::Health {}];
    assert!(look.iter().all(|ask| ask.needs() == Role::View));
    let machine = || "mc_01".to_owned();
    let approve = [
        Ask::Window { minutes: 15 },
        Ask::Approve { slot: "node-3".into(), code: "WT0T-BSPH-K".into() },
        Ask::Say { machine: machine(), word: None },
    ];
    assert!(approve.iter().all(|ask| ask.needs() == Role::Approve));
    let admin = [
        Ask::Render { machine: machine() },
        Ask::Backup {},
        Ask::Apply { name: "site.nbb.part".into() },
        Ask::Report {},
        Ask::EstClient { name: "printer".into() },
    ];
    assert!(admin.iter().all(|ask| ask.needs() == Role::Admin));
}

#[test]
fn a_damaged_roles_file_gives_nobody_a_role() {
    let dir = tempfile::tempdir().unwrap();
    for text in ["{", r#"{"users": {"1000": "king"}}"#, r#"{"1000": "admin"}"#] {
        std::fs::write(dir.path().join(ROLES), text).unwrap();
        assert_eq!(Roles::load(dir.path()).of(900, 1000, 1000), None, "{text}");
    }
}

#[test]
fn a_code_never_enters_the_audit_line() {
    let told = Ask::Approve { slot: "node-3".into(), code: "WT0T-BSPH-K".into() }.told();
    assert_eq!(told, "approve by voice for node-3");
}

#[test]
fn an_audit_line_reads_like_what_was_done() {
    let said = |word| Ask::Say { machine: "mc_01".into(), word }.told();
    assert_eq!(said(Some(Said::No)), "say no to mc_01");
    assert_eq!(said(Some(Said::Retire)), "retire mc_01");
    assert_eq!(said(None), "take back what was said of mc_01");
    assert_eq!(Ask::Window { minutes: 15 }.told(), "open the window for 15 min");
}

#[test]
fn without_a_provisioner_the_client_says_how_to_start_it() {
    let dir = tempfile::tempdir().unwrap();
    let asked = || ask::<Value>(dir.path(), &Ask::Health {}).unwrap_err().to_string();
    let init = format!("`provisioner init --dir {} --site SITE", dir.path().display());
    assert!(asked().contains(&init), "{}", asked());
    std::fs::write(dir.path().join("identity.json"), "{}").unwrap();
    let error = asked();
    let start = format!(
        "provisioner is not running: start it with `provisioner serve --dir {}`",
        dir.path().display()
    );
    assert_eq!(error, start);
    assert!(!client::is_running(dir.path()));
}
