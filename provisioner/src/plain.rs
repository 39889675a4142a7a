//! Text that comes from outside, as a person may safely read it: short, in one line, and nothing that moves a terminal.

use protocol::inventory::Facts;

/// Symbols of a name or word that somebody else chose.
const WORD: usize = 64;
/// Symbols of a whole sentence that holds such words.
const SENTENCE: usize = 400;

/// A word that somebody else chose: cut, and every symbol that is no letter, digit or plain sign is a question mark.
pub fn word(text: &str) -> String {
    let safe = |c: char| c.is_alphanumeric() || c == ' ' || c.is_ascii_graphic();
    text.chars().take(WORD).map(|c| if safe(c) { c } else { '?' }).collect()
}

/// A sentence of ours that may hold such words: cut, without what a terminal would obey.
pub fn sentence(text: &str) -> String {
    text.chars().filter(|c| is_shown(*c)).take(SENTENCE).collect()
}

/// Everything that can be seen of a text. Without this a name could colour, hide or turn around what stands beside it.
pub fn shown(text: &str) -> String {
    text.chars().filter(|c| is_shown(*c)).collect()
}

/// So many of something: `1 machine`, `2 machines`.
pub fn count(number: usize, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

/// Columns as wide as their widest cell, two spaces between them. No cell can do more than be read.
pub fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut lines = vec![head.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>()];
    lines.extend(rows.into_iter().map(|row| row.iter().map(|cell| shown(cell)).collect()));
    let width =
        |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|c| c.chars().count()).max();
    let widths: Vec<_> = (0..head.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn is_shown(c: char) -> bool {
    let turns =
        matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    !c.is_control() && !turns
}

/// What a machine says of itself, cut before it is kept.
pub fn facts(mut facts: Facts) -> Facts {
    let dmi = &mut facts.dmi;
    let said = [&mut dmi.vendor, &mut dmi.product, &mut dmi.version, &mut dmi.serial, &mut dmi.uuid];
    let more = [&mut facts.tpm, &mut facts.cpu, &mut facts.arch, &mut facts.kernel, &mut facts.kubelet];
    for text in said.into_iter().chain(more) {
        *text = word(text);
    }
    facts.state = sentence(&facts.state);
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_not_shown() {
        assert_eq!(word("S1\x1b[2J\u{9b}31m\nmc_01"), "S1?[2J?31m?mc_01");
        assert_eq!(word("a\u{202e}b\u{200b}c Größe-7"), "a?b?c Größe-7");
        assert_eq!(word(&"x".repeat(5000)).len(), WORD);
        assert_eq!(shown("one…\x1b[1m two\u{202e}"), "one…[1m two");
        assert_eq!(sentence(&"é\n".repeat(5000)).chars().count(), SENTENCE);
    }

    #[test]
    fn an_honest_machine_is_kept_as_it_is() {
        let mut honest = Facts::default();
        honest.dmi.vendor = "Intel(R) Client Systems".into();
        honest.dmi.serial = "5CG1234ABC".into();
        honest.cpu = "11th Gen Intel(R) Core(TM) i5-1135G7 @ 2.40GHz".into();
        assert_eq!(facts(honest.clone()), honest);
        honest.dmi.serial = "5CG\n".repeat(100);
        assert_eq!(facts(honest).dmi.serial.len(), WORD);
    }
}
