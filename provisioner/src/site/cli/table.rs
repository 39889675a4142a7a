//! What a person reads on a terminal: aligned tables and plain sentences.

use crate::plain::{self, table};
use crate::site::explain::{ClaimRow, Explained, Listed, Row, SlotRow, span};

/// A dash where there is nothing.
fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// Lives are written as the state diagram writes them.
fn life(word: &str) -> String {
    let mut symbols = word.chars();
    symbols
        .next()
        .map_or_else(|| "-".to_owned(), |first| first.to_ascii_uppercase().to_string() + symbols.as_str())
}

fn ago(row: &Row) -> String {
    if row.since.is_empty() { "-".to_owned() } else { span(row.seconds) }
}

/// A key by its beginning, which `explain` takes too.
fn short(machine: &str) -> String {
    let length = if machine.starts_with("key:") { "key:".len() + 12 } else { usize::MAX };
    machine.chars().take(length).collect()
}

/// The machines.
pub fn machines(listed: &Listed) -> String {
    let unseen = match listed.unseen {
        0 => String::new(),
        1 => "1 more is registered and has not spoken here (--all lists it too).\n".to_owned(),
        many => format!("{many} more are registered and have not spoken here (--all lists them too).\n"),
    };
    if listed.machines.is_empty() {
        return format!("No machine has spoken here yet.\n{unseen}");
    }
    let head = ["MACHINE", "SERIAL", "LIFE", "SLOT", "NODE", "SINCE", "WHY"];
    let line = |row: &Row| {
        let cells = [
            &short(&row.machine),
            &row.serial,
            &life(&row.life),
            &row.slot,
            &row.node,
            &ago(row),
            &row.reason,
        ];
        cells.map(|cell| or_dash(cell)).to_vec()
    };
    table(&head, listed.machines.iter().map(line)) + &unseen
}

/// The slots.
pub fn slots(slots: &[SlotRow]) -> String {
    if slots.is_empty() {
        return "HQ's word names no slots yet: apply a bundle.\n".to_owned();
    }
    let line = |row: &SlotRow| {
        let holder = if row.machine.is_empty() { "(free)" } else { &row.machine };
        vec![row.slot.clone(), row.role.clone(), holder.to_owned(), life(&row.life), or_dash(&row.node)]
    };
    table(&["SLOT", "ROLE", "MACHINE", "LIFE", "NODE"], slots.iter().map(line))
}

/// The machines that show a code.
pub fn claims(claims: &[ClaimRow]) -> String {
    if claims.is_empty() {
        return "No machine shows a code.\n".to_owned();
    }
    let line = |row: &ClaimRow| {
        let state = match row.slot.as_str() {
            "" => "read its code to HQ".to_owned(),
            slot => format!("approved by HQ for {slot}: waits for the bundle"),
        };
        vec![short(&row.machine), or_dash(&row.serial), or_dash(&row.model), span(row.seconds), state]
    };
    table(&["MACHINE", "SERIAL", "MODEL", "SINCE", "STATE"], claims.iter().map(line))
}

/// Everything about one machine.
pub fn explained(it: &Explained) -> String {
    let row = &it.row;
    let serial = if row.serial.is_empty() { String::new() } else { format!(" (serial {})", row.serial) };
    let since = if row.since.is_empty() {
        String::new()
    } else {
        format!(" since {}, for {}", row.since, span(row.seconds))
    };
    let mut lines = vec![
        ("why".to_owned(), format!("{} ({})", it.person, row.reason)),
        ("in detail".to_owned(), it.engineer.clone()),
        ("next".to_owned(), it.next.clone()),
        ("by when".to_owned(), it.deadline.clone()),
    ];
    lines.extend(it.facts.iter().filter(|(_, value)| !value.is_empty()).cloned());
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut text = plain::shown(&format!("{}{serial}: {}{since}", row.machine, life(&row.life))) + "\n";
    for (name, value) in lines {
        text.push_str(plain::shown(&format!("  {name:<width$}  {value}")).trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            machine: "mc_01".into(),
            serial: "5CG1234ABC".into(),
            life: "member".into(),
            reason: "member".into(),
            slot: "node-1".into(),
            node: "node-1-k3v9q2".into(),
            since: "2026-11-24T12:00:00Z".into(),
            seconds: 3 * 3600 + 120,
        }
    }

    #[test]
    fn machines_stand_in_columns() {
        let new = Row {
            machine: "mc_0000002".into(),
            life: "registered".into(),
            reason: "not-seen".into(),
            ..Row::default()
        };
        let listed = Listed { machines: vec![row(), new], unseen: 3 };
        assert_eq!(
            machines(&listed),
            "\
MACHINE     SERIAL      LIFE        SLOT    NODE           SINCE      WHY
mc_01       5CG1234ABC  Member      node-1  node-1-k3v9q2  3 h 2 min  member
mc_0000002  -           Registered  -       -              -          not-seen
3 more are registered and have not spoken here (--all lists them too).
"
        );
    }

    #[test]
    fn an_empty_site_says_so_in_words() {
        assert_eq!(machines(&Listed::default()), "No machine has spoken here yet.\n");
        assert_eq!(slots(&[]), "HQ's word names no slots yet: apply a bundle.\n");
        assert_eq!(claims(&[]), "No machine shows a code.\n");
    }

    #[test]
    fn a_free_slot_is_called_free() {
        let held = SlotRow {
            slot: "node-1".into(),
            role: "control-plane".into(),
            machine: "mc_01".into(),
            node: "node-1-k3v9q2".into(),
            life: "missing".into(),
        };
        let free = SlotRow { slot: "node-2".into(), role: "worker".into(), ..SlotRow::default() };
        assert_eq!(
            slots(&[held, free]),
            "\
SLOT    ROLE           MACHINE  LIFE     NODE
node-1  control-plane  mc_01    Missing  node-1-k3v9q2
node-2  worker         (free)   -        -
"
        );
    }

    #[test]
    fn a_machine_with_a_code_says_what_to_do_and_never_the_code() {
        let waits = ClaimRow {
            machine: "key:47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU".into(),
            serial: "S1".into(),
            model: "Intel NUC".into(),
            seconds: 40,
            ..ClaimRow::default()
        };
        let approved = ClaimRow { slot: "node-3".into(), ..waits.clone() };
        assert_eq!(
            claims(&[waits, approved]),
            "\
MACHINE           SERIAL  MODEL      SINCE  STATE
key:47DEQpj8HBSa  S1      Intel NUC  40 s   read its code to HQ
key:47DEQpj8HBSa  S1      Intel NUC  40 s   approved by HQ for node-3: waits for the bundle
"
        );
    }

    #[test]
    fn no_name_of_a_machine_draws_on_the_terminal() {
        let drawing = "S1\x1b[2J\u{9b}1m\u{202e}\n";
        let claim = ClaimRow { serial: drawing.into(), model: drawing.into(), ..ClaimRow::default() };
        let row = Row { serial: drawing.into(), ..row() };
        let facts = vec![("profile".to_owned(), drawing.to_owned())];
        let it = Explained { row: row.clone(), engineer: drawing.into(), facts, ..Explained::default() };
        let listed = Listed { machines: vec![row], unseen: 0 };
        for text in [claims(&[claim]), machines(&listed), explained(&it)] {
            let drawn = text.contains(|c: char| (c.is_control() && c != '\n') || c == '\u{202e}');
            assert!(!drawn && text.contains("S1[2J1m"), "{text:?}");
        }
        assert_eq!(machines(&listed_of(drawing)).lines().count(), 2);
    }

    fn listed_of(serial: &str) -> Listed {
        Listed { machines: vec![Row { serial: serial.into(), ..row() }], unseen: 0 }
    }

    #[test]
    fn an_explanation_reads_like_one() {
        let it = Explained {
            row: row(),
            person: "This machine works in the cluster.".into(),
            engineer: "Its Node is Ready.".into(),
            next: "Nothing: all is well.".into(),
            deadline: "nothing is waited for".into(),
            facts: vec![("last heard".into(), "12 s ago".into()), ("empty".into(), String::new())],
        };
        assert_eq!(
            explained(&it),
            "\
mc_01 (serial 5CG1234ABC): Member since 2026-11-24T12:00:00Z, for 3 h 2 min
  why         This machine works in the cluster. (member)
  in detail   Its Node is Ready.
  next        Nothing: all is well.
  by when     nothing is waited for
  last heard  12 s ago
"
        );
    }
}
