//! Registrations from a table: all rows or none, and every bad cell is named with what would be right.

use std::collections::BTreeMap;
use std::fmt;

use protocol::bytes::Digest;
use protocol::id::is_slot_name;
use protocol::record::{Auth, Match, Policy, Record, Sites, Status, is_junk};
use protocol::refusal::Refusal;

/// Columns that are understood.
pub const COLUMNS: [&str; 12] = [
    "serial",
    "board-serial",
    "uuid",
    "mac",
    "ek-p256",
    "ek-p384",
    "ek-rsa",
    "dev-key",
    "model",
    "site",
    "slot",
    "roles",
];

/// One bad cell: R49.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    /// Line of the file, the header is 1.
    pub line: u64,
    /// Its column.
    pub column: String,
    /// What is wrong, and what would be right.
    pub what: String,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {}, column {}: {} ({})",
            self.line,
            self.column,
            self.what,
            Refusal::ImportRefused.code()
        )
    }
}

/// What is known beside the table.
pub struct Known<'a> {
    /// Registrations that are there already.
    pub records: &'a [Record],
    /// Sites that are there.
    pub sites: &'a [String],
    /// Makes an id.
    pub new_id: &'a mut dyn FnMut() -> String,
}

struct Row<'a> {
    line: u64,
    cells: BTreeMap<&'a str, String>,
    bad: Vec<Bad>,
}

impl Row<'_> {
    fn get(&self, column: &str) -> Option<&str> {
        self.cells.get(column).map(|cell| cell.trim()).filter(|cell| !cell.is_empty())
    }

    fn wrong(&mut self, column: &str, what: impl Into<String>) {
        self.bad.push(Bad { line: self.line, column: column.to_owned(), what: what.into() });
    }

    fn digest(&mut self, column: &str) -> Option<Digest> {
        let text = self.get(column)?.to_owned();
        let bare = text.strip_prefix("ek:").or_else(|| text.strip_prefix("key:")).unwrap_or(&text);
        let read = bare.parse().ok().or_else(|| from_hex(bare));
        if read.is_none() {
            self.wrong(
                column,
                format!("{text:?} is no SHA-256: 43 symbols of base64url, or 64 hexadecimal digits"),
            );
        }
        read
    }
}

fn from_hex(text: &str) -> Option<Digest> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
    bytes?.try_into().ok().map(Digest)
}

/// Reads a table. Either every row is good, or every bad cell is named and nothing is to be written.
pub fn import(text: &[u8], known: &mut Known<'_>) -> Result<Vec<Record>, Vec<Bad>> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    // Spreadsheets of half the world write semicolons.
    let delimiter = if first.contains(&b';') && !first.contains(&b',') { b';' } else { b',' };
    let mut reader =
        csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).trim(csv::Trim::All).from_reader(text);
    let broken = |line, error: &csv::Error| vec![Bad { line, column: "-".into(), what: error.to_string() }];
    let header: Vec<String> =
        reader.headers().map_err(|error| broken(1, &error))?.iter().map(str::to_lowercase).collect();
    let mut bad: Vec<Bad> = header
        .iter()
        .filter(|name| !COLUMNS.contains(&name.as_str()))
        .map(|name| Bad {
            line: 1,
            column: name.clone(),
            what: format!("unknown; there are {}", COLUMNS.join(", ")),
        })
        .collect();
    let mut records = Vec::new();
    let mut taken = taken_by(known.records);
    for (number, row) in reader.records().enumerate() {
        let line = number as u64 + 2;
        let row = row.map_err(|error| broken(line, &error))?;
        let mut row = Row {
            line,
            cells: header.iter().map(String::as_str).zip(row.iter().map(str::to_owned)).collect(),
            bad: vec![],
        };
        let record = record(&mut row, known);
        claim(&mut row, &record, &mut taken);
        bad.append(&mut row.bad);
        records.push(record);
    }
    if bad.is_empty() { Ok(records) } else { Err(bad) }
}

fn record(row: &mut Row<'_>, known: &mut Known<'_>) -> Record {
    let mut auth = Vec::new();
    for (column, alg) in [("ek-p256", "ecc-p256"), ("ek-p384", "ecc-p384"), ("ek-rsa", "rsa-2048")] {
        if let Some(sha256) = row.digest(column) {
            auth.push(Auth::TpmEk { alg: alg.to_owned(), sha256 });
        }
    }
    if let Some(sha256) = row.digest("dev-key") {
        auth.push(Auth::DevKey { sha256 });
    }
    let hints = Match {
        product_serial: row.get("serial").map(str::to_owned),
        board_serial: row.get("board-serial").map(str::to_owned),
        system_uuid: row.get("uuid").map(str::to_owned),
        mac: row
            .get("mac")
            .map(|text| text.split_whitespace().map(str::to_lowercase).collect())
            .unwrap_or_default(),
    };
    if auth.is_empty() {
        let serial = hints.product_serial.clone().unwrap_or_default();
        if is_junk(&serial) {
            row.wrong("serial", format!("{serial:?} is a maker's placeholder and names nobody; give an ek or dev-key hash (`node-boot register` prints it)"));
        }
    }
    let site = site(row, known.sites);
    let slot = row.get("slot").map(str::to_owned);
    let roles: Vec<String> =
        row.get("roles").map(|text| text.split([' ', '+']).map(str::to_owned).collect()).unwrap_or_default();
    if slot.as_deref().is_some_and(|slot| !is_slot_name(slot)) {
        row.wrong("slot", "a slot's name is at most 50 small letters, digits and hyphens, as in node-3");
    }
    if slot.is_some() != roles.is_empty() {
        row.wrong("slot", "give either a slot or roles (worker, control-plane)");
    }
    if roles.iter().any(|role| !matches!(role.as_str(), "worker" | "control-plane")) {
        row.wrong("roles", "roles are worker and control-plane");
    }
    Record {
        id: (known.new_id)(),
        epoch: 1,
        status: Status::Active,
        site,
        slot,
        roles,
        hints,
        auth,
        policy: Policy::default(),
    }
}

fn site(row: &mut Row<'_>, sites: &[String]) -> Sites {
    let names: Vec<String> =
        row.get("site").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    if names.is_empty() {
        row.wrong("site", "missing: the site that the machine belongs to");
    }
    for name in names.iter().filter(|name| !sites.contains(name)) {
        row.wrong("site", format!("there is no site {name}; there are {}", sites.join(", ")));
    }
    match names.as_slice() {
        [one] => Sites::One(one.clone()),
        _ => Sites::Pool(names),
    }
}

/// Every provable id and every good serial that is taken, and by what.
fn taken_by(records: &[Record]) -> BTreeMap<String, String> {
    let mut taken = BTreeMap::new();
    for record in records {
        for name in names(record) {
            taken.insert(key(&name.1), record.id.clone());
        }
    }
    taken
}

/// Column and name of everything that may stand only once.
fn names(record: &Record) -> Vec<(&'static str, String)> {
    let column = |auth: &Auth| match auth {
        Auth::TpmEk { alg, .. } if alg == "ecc-p256" => "ek-p256",
        Auth::TpmEk { alg, .. } if alg == "ecc-p384" => "ek-p384",
        Auth::TpmEk { .. } => "ek-rsa",
        _ => "dev-key",
    };
    let mut names: Vec<_> = record.auth.iter().map(|auth| (column(auth), auth.id().to_string())).collect();
    let serial = record.hints.product_serial.as_deref().filter(|serial| !is_junk(serial));
    names.extend(serial.map(|serial| ("serial", format!("serial {serial}"))));
    names
}

/// By which a name is found again: serials are compared without regard to case.
fn key(name: &str) -> String {
    if name.starts_with("serial ") { name.to_lowercase() } else { name.to_owned() }
}

fn claim(row: &mut Row<'_>, record: &Record, taken: &mut BTreeMap<String, String>) {
    for (column, name) in names(record) {
        let here = format!("line {}", row.line);
        if let Some(other) = taken.insert(key(&name), here) {
            row.wrong(
                column,
                format!("{name} is registered already ({other}); a machine is registered once"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str, records: &[Record]) -> Result<Vec<Record>, Vec<String>> {
        let mut next = 0;
        let mut new_id = || {
            next += 1;
            format!("mc_{next}")
        };
        let sites = ["ship-7".to_owned()];
        let mut known = Known { records, sites: &sites, new_id: &mut new_id };
        import(text.as_bytes(), &mut known).map_err(|bad| bad.iter().map(ToString::to_string).collect())
    }

    const KEY: &str = "qV9znyK5k8JvC7yJCf8_IcGH-KPSVvxSTlevZx_zjkc";

    #[test]
    fn good_rows_become_registrations_whatever_a_spreadsheet_makes_of_the_file() {
        let hex = "a95f739f22b993c26f0bbc8909ff3f21c187f8a3d256fc524e57af671ff38e47";
        for text in [
            format!("serial,dev-key,site,slot\n5CG1,{KEY},ship-7,node-3\n"),
            format!("\u{feff}Serial;Dev-Key;Site;Slot\r\n5CG1;key:{KEY};ship-7;node-3\r\n"),
            format!("site,slot,serial,dev-key\nship-7,node-3,5CG1,{hex}\n"),
        ] {
            let records = run(&text, &[]).unwrap();
            assert_eq!(records[0].auth[0].id().to_string(), format!("key:{KEY}"), "{text}");
            assert_eq!(records[0].slot.as_deref(), Some("node-3"));
        }
    }

    #[test]
    fn r49a_a_junk_serial_alone_names_nobody() {
        let bad = run("serial,site,roles\nTo be filled by O.E.M.,ship-7,worker\n", &[]).unwrap_err();
        assert!(bad[0].contains("line 2, column serial") && bad[0].contains("node-boot register"), "{bad:?}");
    }

    #[test]
    fn r49b_an_id_twice_is_named_in_the_file_and_against_the_registry() {
        let text = format!("serial,dev-key,site,roles\nA1,{KEY},ship-7,worker\nA2,{KEY},ship-7,worker\n");
        let bad = run(&text, &[]).unwrap_err();
        assert!(bad[0].starts_with("line 3, column dev-key") && bad[0].contains("line 2"), "{bad:?}");
        let known = run(&text[..text.find("A2").unwrap()], &[]).unwrap();
        let bad = run(&text[..text.find("A2").unwrap()], &known).unwrap_err();
        assert_eq!(bad.len(), 2, "serial and key: {bad:?}");
    }

    #[test]
    fn r49c_a_wrong_hash_is_named_with_what_would_be_right() {
        let bad = run("serial,ek-p256,site,roles\nA1,abc,ship-7,worker\n", &[]).unwrap_err();
        assert!(bad[0].contains("43 symbols"), "{bad:?}");
    }

    #[test]
    fn every_bad_cell_is_reported_and_nothing_is_imported() {
        let text = "serial,dev-key,site,slot,colour\nA1,x,ship-9,Node 1,red\nA2,,ship-7,,\n";
        let bad = run(text, &[]).unwrap_err();
        let columns: Vec<_> =
            bad.iter().map(|line| line.split([',', ':']).nth(1).unwrap().trim().to_owned()).collect();
        assert_eq!(
            columns,
            ["column colour", "column dev-key", "column site", "column slot", "column slot"],
            "{bad:#?}"
        );
    }
}
