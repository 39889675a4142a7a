//! The table that the figures are printed as.

use std::fmt;

/// Rows of figures, in the order they were measured.
#[derive(Default)]
pub struct Table {
    rows: Vec<[String; 6]>,
    failed: bool,
}

/// One figure.
pub struct Figure<'a> {
    /// The number of the goal it belongs to.
    pub goal: &'a str,
    /// What was measured.
    pub what: &'a str,
    /// What it came to, with its unit.
    pub ours: String,
    /// The limit or peer, with its unit.
    pub beside: String,
    /// Ours over the other.
    pub ratio: Option<f64>,
    /// Whether the goal is met; none where the row is only an anchor.
    pub met: Option<bool>,
}

impl Table {
    /// Adds a figure.
    pub fn add(&mut self, figure: &Figure<'_>) {
        let verdict = match figure.met {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "",
        };
        let ratio = figure.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
        let row = [figure.goal, figure.what, &figure.ours, &figure.beside, &ratio, verdict];
        self.push(row);
    }

    /// Shows that the work goes on, and keeps the row for the table.
    fn push(&mut self, row: [&str; 6]) {
        let [goal, what, ours, beside, ..] = row;
        println!("goal {goal}: {what}: {ours} {beside}");
        self.rows.push(row.map(str::to_owned));
    }

    /// Adds a figure that could not be measured here.
    pub fn skipped(&mut self, goal: &str, what: &str, why: &str) {
        self.push([goal, what, "not measured", why, "", ""]);
    }

    /// What went wrong takes the place of its figures, and of no others.
    pub fn unless_measured(&mut self, goal: &str, what: &str, measured: anyhow::Result<()>) {
        if let Err(error) = measured {
            self.failed = true;
            self.push([goal, what, "FAILED", &format!("{error:#}"), "", ""]);
        }
    }

    /// Whether everything that was to be measured was.
    pub fn is_whole(&self) -> bool {
        !self.failed
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["goal", "what", "ours", "beside", "ratio", "verdict"].map(str::to_owned);
        let rows = || std::iter::once(&head).chain(&self.rows);
        let width = |column: usize| rows().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..head.len()).map(width).collect();
        for row in rows() {
            let cells: Vec<_> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        Ok(())
    }
}
