//! The table of registrations that headquarters imports.

/// Rows of registrations from several machines, with the columns that headquarters adds.
#[derive(Default)]
pub struct Csv {
    columns: Vec<String>,
    rows: Vec<Vec<(String, String)>>,
}

impl Csv {
    /// Adds the rows of one CSV text, each with more columns.
    pub fn add(&mut self, csv: &str, more: &[(&str, &str)]) {
        let mut lines = csv.lines().filter(|line| !line.trim().is_empty());
        let names: Vec<_> = lines.next().unwrap_or_default().split(',').collect();
        for line in lines {
            let cells = names.iter().copied().zip(line.split(',')).chain(more.iter().copied());
            let cells: Vec<_> = cells.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            for (name, _) in &cells {
                if !self.columns.contains(name) {
                    self.columns.push(name.clone());
                }
            }
            self.rows.push(cells);
        }
    }

    /// The whole file.
    pub fn text(&self) -> String {
        let cell = |row: &Vec<(String, String)>, name: &String| {
            row.iter()
                .rev()
                .find(|(column, _)| column == name)
                .map(|(_, value)| value.clone())
                .unwrap_or_default()
        };
        let line = |row| self.columns.iter().map(|name| cell(row, name)).collect::<Vec<_>>().join(",");
        let rows: Vec<_> = self.rows.iter().map(line).collect();
        format!("{}\n{}\n", self.columns.join(","), rows.join("\n"))
    }
}
