//! A machine whose only disk holds somebody's data: what it shows, and a person's yes to that disk alone.

use protocol::json;
use protocol::messages::{Act, Health, NoDisk, StatusAnswer, StatusRequest};
use tests::pledge::{Pledge, Session};

use crate::Served;

/// A machine says which disks it has found; what it is to do.
fn asks(session: &mut Session<'_>, marks: &[&str]) -> Vec<Act> {
    let marks: Vec<_> = marks.iter().map(|mark| (*mark).to_owned()).collect();
    let found =
        marks.iter().map(|mark| format!("sda (10 GiB, {mark}) holds letters\u{1b}[2J")).collect::<String>();
    let no_disk = (!marks.is_empty()).then_some(NoDisk { found, marks });
    let health = Health { no_disk, ..Health::default() };
    let answer = session.status(&StatusRequest { health, ..StatusRequest::default() }).unwrap();
    assert_eq!(answer.status, 200);
    let answer: StatusAnswer = json::parse(&answer.body).unwrap();
    answer.orders.into_iter().map(|order| order.act).collect()
}

#[test]
fn a_disk_with_somebodys_data_is_overwritten_by_a_persons_yes_to_that_disk_as_it_was_seen() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[&pledge]);
    let mut session = pledge.connect(served.address).unwrap();
    session.admission().unwrap();
    let yes = |mark: &str| served.site(&["approve", "--machine", "WIRE000", "--overwrite", mark]);
    let explained = || served.site(&["explain", "WIRE000"]).unwrap();

    assert_eq!(asks(&mut session, &[]), []);
    let said = yes("1a2b3c4d").unwrap_err().to_string();
    assert!(said.contains("waits for no disk"), "{said}");

    assert_eq!(asks(&mut session, &["1a2b3c4d"]), [], "nobody has said anything");
    let waits = explained();
    assert!(waits.contains("(10 GiB, 1a2b3c4d) holds letters[2J"), "{waits}");
    assert!(waits.contains("--overwrite 1a2b3c4d`"), "{waits}");
    let said = yes("deadbeef").unwrap_err().to_string();
    assert!(said.contains("shows no disk deadbeef, but 1a2b3c4d"), "{said}");
    served.site(&["approve", "--machine", "WIRE000"]).unwrap();
    assert_eq!(asks(&mut session, &["1a2b3c4d"]), [], "a yes of another kind is none to a disk");

    yes("1a2b3c4d").unwrap();
    let overwrite = [Act::Overwrite { mark: "1a2b3c4d".into() }];
    assert_eq!(asks(&mut session, &["1a2b3c4d", "00000001"]), overwrite);
    assert_eq!(asks(&mut session, &["1a2b3c4d"]), overwrite, "until it has done that");
    assert!(explained().contains("A person has said yes to 1a2b3c4d"));

    assert_eq!(asks(&mut session, &["00000001"]), [], "somebody has used that disk since");
    assert_eq!(asks(&mut session, &["1a2b3c4d"]), [], "and a yes that is over stays so");
    yes("1a2b3c4d").unwrap();
    served.site(&["retire", "--undo", "WIRE000"]).unwrap();
    assert_eq!(asks(&mut session, &["1a2b3c4d"]), [], "it was taken back");
    asks(&mut session, &[]);
    assert!(!explained().contains("no disk"));
}
