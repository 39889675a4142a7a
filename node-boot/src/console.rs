//! What a person at the machine reads: one plain sentence at every moment, each only once.

use std::sync::{Mutex, PoisonError};

use qrcode::QrCode;

static LAST: Mutex<String> = Mutex::new(String::new());

/// Says a sentence, unless it was the last one said.
pub fn say(sentence: &str) {
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if *last != sentence {
        println!("{sentence}");
        sentence.clone_into(&mut last);
    }
}

/// Shows a code large: as text, and as a picture for a telephone.
pub fn show_code(code: &str) {
    let spaced: Vec<_> = code.chars().map(|symbol| symbol.to_string()).collect();
    say(&format!("\n    {}\n\n{}Read this code to headquarters: {code}", spaced.join(" "), qr(code)));
}

/// A QR code in half blocks, two rows a line, with its quiet zone.
pub fn qr(text: &str) -> String {
    let Ok(code) = QrCode::new(text) else { return String::new() };
    let width = code.width();
    let dark = |x: usize, y: usize| {
        (4..width + 4).contains(&x)
            && (4..width + 4).contains(&y)
            && code[(x - 4, y - 4)] == qrcode::Color::Dark
    };
    let mut picture = String::new();
    for y in (0..width + 8).step_by(2) {
        for x in 0..width + 8 {
            // Light on dark terminals: what is dark in the code stays unlit.
            picture.push(match (dark(x, y), dark(x, y + 1)) {
                (false, false) => '█',
                (false, true) => '▀',
                (true, false) => '▄',
                (true, true) => ' ',
            });
        }
        picture.push('\n');
    }
    picture
}
