//! Registrations from a table: all rows or none, and every bad cell is named with what would be right.

mod keys; // endorsement keys: hashes, and certificates of makers
mod table; // the file as a spreadsheet saved it

use std::collections::BTreeMap;
use std::fmt;

use protocol::bytes::Digest;
use protocol::id::is_slot_name;
use protocol::record::{Auth, Match, Policy, Record, Sites, Status, is_junk};
use protocol::refusal::Refusal;

use super::sites::unknown_site;
use crate::model::Slots;

/// Columns that are understood.
pub const COLUMNS: [&str; 13] = [
    "serial",
    "board-serial",
    "uuid",
    "mac",
    "ek-p256",
    "ek-p384",
    "ek-rsa",
    "ek-cert",
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
    /// Its column; empty where the whole line or the whole file is meant.
    pub column: String,
    /// What is wrong, and what would be right.
    pub what: String,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let column = if self.column.is_empty() { "" } else { ", column " };
        let code = Refusal::ImportRefused.code();
        write!(f, "line {}{column}{}: {} ({code})", self.line, self.column, self.what)
    }
}

/// What is known beside the table.
pub struct Known<'a> {
    /// Registrations that are there already.
    pub records: &'a [Record],
    /// Sites that are there, and their slots.
    pub sites: &'a BTreeMap<String, Slots>,
    /// Makes an id.
    pub new_id: &'a mut dyn FnMut() -> String,
}

/// A table that can be registered.
#[derive(Debug)]
pub struct Imported {
    /// A registration for each row.
    pub records: Vec<Record>,
    /// What is accepted, and perhaps not what was meant: a line each.
    pub warnings: Vec<String>,
}

struct Row<'a> {
    line: u64,
    cells: BTreeMap<&'a str, String>,
    bad: Vec<Bad>,
    warnings: Vec<String>,
}

impl Row<'_> {
    fn get(&self, column: &str) -> Option<&str> {
        self.cells.get(column).map(|cell| cell.trim()).filter(|cell| !cell.is_empty())
    }

    fn wrong(&mut self, column: &str, what: impl Into<String>) {
        self.bad.push(Bad { line: self.line, column: column.to_owned(), what: what.into() });
    }

    /// A label; a maker's placeholder is nobody's.
    fn label(&mut self, column: &str) -> Option<String> {
        let label = self.get(column)?.to_owned();
        if !is_junk(&label) {
            return Some(label);
        }
        self.warnings.push(format!(
            "line {}, column {column}: {label:?} is a maker's placeholder and is not kept",
            self.line
        ));
        None
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

/// Address of a network card (EUI-48), as Linux writes it.
fn mac(text: &str) -> Option<String> {
    let parts: Vec<_> = text.split([':', '-']).collect();
    let fits = |part: &&str| part.len() == 2 && part.bytes().all(|symbol| symbol.is_ascii_hexdigit());
    (parts.len() == 6 && parts.iter().all(fits)).then(|| parts.join(":").to_lowercase())
}

/// Reads a table. Either every row is good, or every bad cell is named and nothing is to be written.
pub fn import(file: &[u8], known: &mut Known<'_>) -> Result<Imported, Vec<Bad>> {
    let table::Table { header, rows, mut bad } = table::read(file)?;
    let (mut records, mut warnings) = (Vec::new(), Vec::new());
    let mut taken = taken_by(known.records);
    for (line, cells) in rows {
        let cells = header.iter().map(String::as_str).zip(cells).collect();
        let mut row = Row { line, cells, bad: vec![], warnings: vec![] };
        let record = record(&mut row, known);
        claim(&mut row, &record, &mut taken);
        bad.append(&mut row.bad);
        warnings.append(&mut row.warnings);
        records.push(record);
    }
    bad.sort_by_key(|bad| bad.line);
    if bad.is_empty() { Ok(Imported { records, warnings }) } else { Err(bad) }
}

fn record(row: &mut Row<'_>, known: &mut Known<'_>) -> Record {
    let mut auth = keys::endorsement(row);
    if let Some(sha256) = row.digest("dev-key") {
        auth.push(Auth::DevKey { sha256 });
    }
    // A key that cannot be read is named already.
    if auth.is_empty() && keys::COLUMNS.iter().all(|column| row.get(column).is_none()) {
        check_label(row);
    }
    let hints = hints(row);
    let site = site(row, known.sites);
    let (slot, roles) = place(row, &site, known.sites);
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

/// R49a: without a key, the serial has to say at least whom a person is to ask for.
fn check_label(row: &mut Row<'_>) {
    let serial = row.get("serial").unwrap_or_default().to_owned();
    let give = "give an ek or dev-key hash (`node-boot register` prints it) or an ek-cert";
    if serial.is_empty() {
        row.wrong("serial", format!("missing, and there is no key: nobody is named; {give}"));
    } else if is_junk(&serial) {
        row.wrong("serial", format!("{serial:?} is a maker's placeholder and names nobody; {give}"));
    } else {
        row.warnings.push(format!(
            "line {}: {serial} is registered by its label only: it shows a code, and a person has to approve that \
             (`provisioner hq approve`)",
            row.line
        ));
    }
}

fn hints(row: &mut Row<'_>) -> Match {
    let texts: Vec<String> =
        row.get("mac").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    for text in texts.iter().filter(|text| mac(text).is_none()) {
        row.wrong("mac", format!("{text:?} is no address of a network card, as in 52:54:00:12:34:56"));
    }
    Match {
        product_serial: row.label("serial"),
        board_serial: row.label("board-serial"),
        system_uuid: row.label("uuid"),
        mac: texts.iter().filter_map(|text| mac(text)).collect(),
    }
}

/// The slot that a machine is for, or the roles that it may have.
fn place(row: &mut Row<'_>, site: &Sites, sites: &BTreeMap<String, Slots>) -> (Option<String>, Vec<String>) {
    let slot = row.get("slot").map(str::to_owned);
    let roles: Vec<String> =
        row.get("roles").map(|text| text.split([' ', '+']).map(str::to_owned).collect()).unwrap_or_default();
    match &slot {
        Some(slot) if !is_slot_name(slot) => {
            row.wrong("slot", "a slot's name is at most 50 small letters, digits and hyphens, as in node-3");
        }
        Some(slot) => {
            for (name, slots) in site.iter().filter_map(|name| Some((name, sites.get(name)?))) {
                if let Err(what) = slots.named(name, slot) {
                    row.wrong("slot", what);
                }
            }
        }
        None => {}
    }
    if slot.is_some() != roles.is_empty() {
        row.wrong("slot", "give either a slot or roles (worker, control-plane)");
    }
    if roles.iter().any(|role| !matches!(role.as_str(), "worker" | "control-plane")) {
        row.wrong("roles", "roles are worker and control-plane");
    }
    (slot, roles)
}

fn site(row: &mut Row<'_>, sites: &BTreeMap<String, Slots>) -> Sites {
    let names: Vec<String> =
        row.get("site").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    if names.is_empty() {
        row.wrong("site", "missing: the site that the machine belongs to");
    }
    for name in names.iter().filter(|name| !sites.contains_key(*name)) {
        row.wrong("site", unknown_site(name, sites.keys().map(String::as_str)));
    }
    match names.as_slice() {
        [one] => Sites::One(one.clone()),
        _ => Sites::Pool(names),
    }
}

/// Who has something that only one machine can have.
enum Holder {
    Line(u64),
    Record(String, Status),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Record(id, Status::Active) => f.write_str(id),
            Self::Record(id, status) => write!(f, "{id}, {}", status.word()),
        }
    }
}

impl Holder {
    /// What to do where its machine is registered again.
    fn remedy(&self) -> String {
        match self {
            Self::Line(_) => "a machine is registered once".to_owned(),
            Self::Record(_, Status::Revoked) => "revoked is for ever".to_owned(),
            Self::Record(id, Status::Active) => {
                format!("to correct it, edit machines/{id}.yaml (docs/hq.md says how)")
            }
            Self::Record(id, _) => {
                format!("where it is back, set `status: active` in machines/{id}.yaml (docs/hq.md says how)")
            }
        }
    }
}

/// Every provable id, every good serial and every slot that is taken, and by what.
fn taken_by(records: &[Record]) -> BTreeMap<String, Holder> {
    let mut taken = BTreeMap::new();
    for record in records {
        let holder = || Holder::Record(record.id.clone(), record.status);
        taken.extend(names(record).into_iter().map(|(_, name)| (key(&name), holder())));
        if record.status == Status::Active {
            taken.extend(slots(record).map(|slot| (slot, holder())));
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

/// The slots that a registration keeps for its machine.
fn slots(record: &Record) -> impl Iterator<Item = String> {
    let slot = record.slot.iter();
    slot.flat_map(|slot| record.site.iter().map(move |site| format!("slot {slot} of {site}")))
}

/// By which a name is found again: serials are compared without regard to case.
fn key(name: &str) -> String {
    if name.starts_with("serial ") { name.to_lowercase() } else { name.to_owned() }
}

fn claim(row: &mut Row<'_>, record: &Record, taken: &mut BTreeMap<String, Holder>) {
    let before = row.bad.len();
    for (column, name) in names(record) {
        if let Some(other) = taken.insert(key(&name), Holder::Line(row.line)) {
            // A hash that stands in no cell comes from a certificate.
            let column = if row.get(column).is_some() { column } else { "ek-cert" };
            row.wrong(column, format!("{name} is registered already ({other}); {}", other.remedy()));
        }
    }
    let is_known = row.bad.len() > before;
    for slot in slots(record) {
        let other = taken.insert(slot.clone(), Holder::Line(row.line));
        // A machine that is there already has its slot from itself.
        if let Some(other) = other.filter(|_| !is_known) {
            let what = format!(
                "{slot} is another machine's ({other}): one machine has one slot; revoke the other first, or give this \
                 one roles, and it takes a slot that falls vacant"
            );
            row.wrong("slot", what);
        }
    }
}

#[cfg(test)]
mod tests;
