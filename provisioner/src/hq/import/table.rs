//! A table as a spreadsheet saved it: its encoding, its separator, its header, and rows that are as long as the header.

use super::{Bad, COLUMNS};

/// A table whose cells were not looked at yet.
pub(super) struct Table {
    /// Names of its columns, in small letters.
    pub header: Vec<String>,
    /// Line and cells of each row that is as long as the header.
    pub rows: Vec<(u64, Vec<String>)>,
    /// Columns that are unknown, rows that are too short or too long.
    pub bad: Vec<Bad>,
}

/// What is wrong with the file as a whole.
fn unfit(line: u64, what: impl Into<String>) -> Vec<Bad> {
    vec![Bad { line, column: String::new(), what: what.into() }]
}

/// Reads the file.
pub(super) fn read(file: &[u8]) -> Result<Table, Vec<Bad>> {
    let text = text_of(file)?;
    let first = text.lines().next().unwrap_or_default();
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(separator(first)?)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let broken =
        |error: &csv::Error| unfit(error.position().map_or(1, csv::Position::line), error.to_string());
    let header = reader.headers().map_err(|error| broken(&error))?;
    let header: Vec<String> = header.iter().map(str::to_lowercase).collect();
    let mut table = Table { bad: unknown(&header), header, rows: vec![] };
    for row in reader.records() {
        let row = row.map_err(|error| broken(&error))?;
        let line = line_of(text, &row);
        match wrong_length(line, &table.header, &row) {
            Some(bad) => table.bad.push(bad),
            None => table.rows.push((line, row.iter().map(str::to_owned).collect())),
        }
    }
    if table.rows.is_empty() && table.bad.is_empty() {
        return Err(unfit(1, "there is no machine in this file: below the header, each line is one"));
    }
    Ok(table)
}

fn text_of(file: &[u8]) -> Result<&str, Vec<Bad>> {
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    if file.starts_with(b"\xff\xfe") || file.starts_with(b"\xfe\xff") || file.contains(&0) {
        return Err(unfit(1, "the file is UTF-16, or no text at all: save it as CSV in UTF-8"));
    }
    let text = std::str::from_utf8(file).map_err(|error| {
        let line = file[..error.valid_up_to()].split(|byte| *byte == b'\n').count();
        unfit(line as u64, "a letter that is not UTF-8: save the file as CSV in UTF-8")
    })?;
    if text.trim().is_empty() {
        return Err(unfit(1, "the file is empty: there is no machine in it"));
    }
    Ok(text)
}

/// Spreadsheets of half the world write semicolons.
fn separator(header: &str) -> Result<u8, Vec<Bad>> {
    let has = |symbol: char| header.contains(symbol);
    match (has(','), has(';'), has('\t')) {
        (false, false, true) => {
            Err(unfit(1, "its cells are separated by tabs: separate them by commas or by semicolons"))
        }
        (false, true, _) => Ok(b';'),
        _ => Ok(b','),
    }
}

fn unknown(header: &[String]) -> Vec<Bad> {
    let wrong = |(place, name): (usize, &String)| {
        let what = if header[..place].contains(name) {
            "it is there twice".to_owned()
        } else if COLUMNS.contains(&name.as_str()) {
            return None;
        } else {
            format!("unknown; there are {}", COLUMNS.join(", "))
        };
        Some(Bad { line: 1, column: column(place, name), what })
    };
    header.iter().enumerate().filter_map(wrong).collect()
}

/// A column by its name; by its place where it has none.
fn column(place: usize, name: &str) -> String {
    if name.is_empty() { (place + 1).to_string() } else { name.to_owned() }
}

/// The line that a row begins on. The reader counts empty lines before it to the row.
fn line_of(text: &str, row: &csv::StringRecord) -> u64 {
    let Some(position) = row.position() else { return 0 };
    let start = usize::try_from(position.byte()).unwrap_or_default();
    let rest = text.get(start..).unwrap_or_default();
    let empty = rest.len() - rest.trim_start_matches(['\r', '\n']).len();
    position.line() + rest[..empty].matches('\n').count() as u64
}

fn wrong_length(line: u64, header: &[String], row: &csv::StringRecord) -> Option<Bad> {
    let (wanted, there) = (header.len(), row.len());
    let sizes = format!("the row has {there} cells and the header {wanted}");
    if there < wanted {
        let what = format!("missing: {sizes}");
        return Some(Bad { line, column: column(there, &header[there]), what });
    }
    let surplus = row.get(wanted)?;
    let what =
        format!("{surplus:?} is beyond the last column: {sizes}; a cell with a comma stands in quotes");
    Some(Bad { line, column: (wanted + 1).to_string(), what })
}
