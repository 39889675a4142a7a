//! The machine's own screen, where the whole system is ours: who it is, what it does or waits for now, what came before.

use std::fs::File;
use std::io::Write as _;

use rustix::termios::tcgetwinsize;

/// A screen that does not say how large it is.
const USUAL: (usize, usize) = (80, 25);
/// Distance from the left.
const MARGIN: &str = "  ";
/// Clears the screen, hides the cursor, and keeps the screen from going dark.
const BEGIN: &str = "\x1b[0m\x1b[2J\x1b[H\x1b[?25l\x1b[9;0]";

/// A screen that is drawn anew with each sentence.
#[derive(Debug)]
pub struct Screen {
    out: File,
    who: String,
    past: Vec<String>,
    now: String,
}

impl Screen {
    /// On a terminal; `who` stands on top.
    pub fn new(out: File, who: &str) -> Self {
        Self { out, who: who.to_owned(), past: Vec::new(), now: String::new() }
    }

    /// Shows a sentence, or something larger of several lines.
    pub fn show(&mut self, sentence: &str) {
        let before = std::mem::replace(&mut self.now, sentence.to_owned());
        // Of something larger nothing is left once it is over.
        if !before.is_empty() && !before.contains('\n') {
            self.past.push(before);
        }
        let size = tcgetwinsize(&self.out).map_or(USUAL, |size| (size.ws_col.into(), size.ws_row.into()));
        let size = if size.0 < 20 || size.1 < 8 { USUAL } else { size };
        // A screen that is not there any more has nobody before it.
        let _ = self.out.write_all(frame(&self.who, &self.past, &self.now, size).as_bytes());
    }
}

/// Everything on a screen of this width and height.
fn frame(who: &str, past: &[String], now: &str, (width, height): (usize, usize)) -> String {
    let room = width - 2 * MARGIN.len();
    let mut head = vec![String::new(), "\x1b[1mnode-boot\x1b[0m".to_owned()];
    head.extend(wrapped(who, room));
    head.push("─".repeat(room));
    let now: Vec<String> = if now.contains('\n') {
        now.lines().map(str::to_owned).collect()
    } else {
        wrapped(now, room).into_iter().map(|line| format!("\x1b[1m{line}\x1b[0m")).collect()
    };
    // What came before has what is left: the latest of it, right above.
    let left = height.saturating_sub(head.len() + now.len() + 3);
    let past: Vec<String> = past.iter().flat_map(|sentence| wrapped(sentence, room)).collect();
    let past = &past[past.len().saturating_sub(left)..];
    let text = |lines: &[String]| {
        let lines = lines.iter().map(|text| format!("{MARGIN}{text}\r\n"));
        lines.collect::<Vec<_>>().concat()
    };
    format!("{BEGIN}{}\x1b[2m{}\x1b[0m\r\n{}", text(&head), text(past), text(&now))
}

/// Lines of at most `width` symbols, broken between words where that can be.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let symbols: Vec<char> = word.chars().collect();
        for piece in symbols.chunks(width) {
            let Some(last) = lines.last_mut() else { continue };
            let needs = usize::from(!last.is_empty()) + piece.len();
            if last.chars().count() + needs <= width {
                if !last.is_empty() {
                    last.push(' ');
                }
                last.extend(piece);
            } else {
                lines.push(piece.iter().collect());
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands on the screen, without what makes it bold or dim.
    fn lines(frame: &str) -> Vec<String> {
        let mut plain = frame.replace(BEGIN, "");
        for code in ["\x1b[0m", "\x1b[1m", "\x1b[2m"] {
            plain = plain.replace(code, "");
        }
        plain.split("\r\n").map(|line| line.trim_end().to_owned()).collect()
    }

    #[test]
    fn the_sentence_stands_below_what_came_before_at_any_width() {
        let past: Vec<_> = (0..60).map(|n| format!("Sentence number {n} of a long life at sea.")).collect();
        let now = "Looking for this site's provisioner on the network.";
        for (width, height) in [(40, 25), (80, 25), (240, 67)] {
            let shown = lines(&frame("NUC12WSHi5, serial GEWS1240001X", &past, now, (width, height)));
            assert!(shown.len() <= height, "{} lines", shown.len());
            assert!(shown.iter().all(|line| line.chars().count() <= width), "{shown:#?}");
            let text = shown.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(text.starts_with("node-boot NUC12WSHi5, serial GEWS1240001X ─"), "{text}");
            assert!(text.ends_with(&format!("{} {now}", past[59])), "{text}");
        }
    }

    #[test]
    fn a_code_keeps_its_lines_and_a_word_that_is_too_long_is_cut() {
        let shown = lines(&frame("", &[], "\n  W T 0 T\n\n██ ▀\n", (80, 25)));
        assert!(
            shown.contains(&"    W T 0 T".to_owned()) && shown.contains(&"  ██ ▀".to_owned()),
            "{shown:?}"
        );
        assert_eq!(wrapped("a bcdefgh i", 4), ["a", "bcde", "fgh", "i"]);
    }
}
