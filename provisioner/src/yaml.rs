//! YAML that people write: what is wrong with it is said in one line, with file, line and column.

use serde::de::DeserializeOwned;
use serde_saphyr::{Error, Options, UserMessageFormatter};

/// Not YAML, or not what is asked for.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadYaml(String);

impl BadYaml {
    /// The parser does not know the file: its own picture of the place would be of `<input>`.
    fn of(error: &Error) -> Self {
        Self(error.without_snippet().render_with_formatter(&UserMessageFormatter))
    }
}

/// Reads a file of one document; the name of the file is the caller's to say.
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> Result<T, BadYaml> {
    serde_saphyr::from_str(text).map_err(|error| BadYaml::of(&error))
}

/// Reads every document of a file.
pub(crate) fn read_all<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, BadYaml> {
    serde_saphyr::from_multiple_with_options(text, Options::default()).map_err(|error| BadYaml::of(&error))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::model::Site;

    #[test]
    fn what_is_wrong_is_one_line_that_names_place_and_key_and_no_input() {
        for (text, words) in [
            ("name: ship-7\nclustr:\n  found: a\n", ["line 2", "clustr", "cluster,"]),
            ("name: ship-7\nnetwork:\n  mtu: big\n", ["line 3", "column 8", ""]),
            ("name: ship-7\nnetwork: {\n", ["line ", "", ""]),
            ("name: ship-7\n\tnetwork: {}\n", ["tab", "line 1", ""]),
            ("name: a\nname: b\n", ["line 2", "name", ""]),
            ("", ["", "", ""]),
        ] {
            let said = read::<Site>(text).unwrap_err().to_string();
            assert!(words.iter().all(|word| said.contains(word)), "{said}");
            assert!(!said.contains("<input>") && said.lines().count() == 1, "{said}");
        }
        let said = read_all::<Value>("a: 1\n---\nb: [\n").unwrap_err().to_string();
        assert!(!said.contains("<input>") && said.lines().count() == 1, "{said}");
    }
}
