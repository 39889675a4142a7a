//! A code, large: as letters of blocks, and as a picture for a telephone.

use qrcode::QrCode;

/// Light around the picture, without which no telephone finds it.
const QUIET: usize = 4;
/// Letters of a code, five points a row, seven rows.
const LETTERS: [(char, [u8; 7]); 33] = [
    ('0', [0x0e, 0x11, 0x13, 0x15, 0x19, 0x11, 0x0e]),
    ('1', [0x04, 0x0c, 0x04, 0x04, 0x04, 0x04, 0x0e]),
    ('2', [0x0e, 0x11, 0x01, 0x02, 0x04, 0x08, 0x1f]),
    ('3', [0x1f, 0x02, 0x04, 0x02, 0x01, 0x11, 0x0e]),
    ('4', [0x02, 0x06, 0x0a, 0x12, 0x1f, 0x02, 0x02]),
    ('5', [0x1f, 0x10, 0x1e, 0x01, 0x01, 0x11, 0x0e]),
    ('6', [0x06, 0x08, 0x10, 0x1e, 0x11, 0x11, 0x0e]),
    ('7', [0x1f, 0x01, 0x02, 0x04, 0x08, 0x08, 0x08]),
    ('8', [0x0e, 0x11, 0x11, 0x0e, 0x11, 0x11, 0x0e]),
    ('9', [0x0e, 0x11, 0x11, 0x0f, 0x01, 0x02, 0x0c]),
    ('A', [0x0e, 0x11, 0x11, 0x11, 0x1f, 0x11, 0x11]),
    ('B', [0x1e, 0x11, 0x11, 0x1e, 0x11, 0x11, 0x1e]),
    ('C', [0x0e, 0x11, 0x10, 0x10, 0x10, 0x11, 0x0e]),
    ('D', [0x1c, 0x12, 0x11, 0x11, 0x11, 0x12, 0x1c]),
    ('E', [0x1f, 0x10, 0x10, 0x1e, 0x10, 0x10, 0x1f]),
    ('F', [0x1f, 0x10, 0x10, 0x1e, 0x10, 0x10, 0x10]),
    ('G', [0x0e, 0x11, 0x10, 0x17, 0x11, 0x11, 0x0f]),
    ('H', [0x11, 0x11, 0x11, 0x1f, 0x11, 0x11, 0x11]),
    ('J', [0x07, 0x02, 0x02, 0x02, 0x02, 0x12, 0x0c]),
    ('K', [0x11, 0x12, 0x14, 0x18, 0x14, 0x12, 0x11]),
    ('M', [0x11, 0x1b, 0x15, 0x15, 0x11, 0x11, 0x11]),
    ('N', [0x11, 0x11, 0x19, 0x15, 0x13, 0x11, 0x11]),
    ('P', [0x1e, 0x11, 0x11, 0x1e, 0x10, 0x10, 0x10]),
    ('Q', [0x0e, 0x11, 0x11, 0x11, 0x15, 0x12, 0x0d]),
    ('R', [0x1e, 0x11, 0x11, 0x1e, 0x14, 0x12, 0x11]),
    ('S', [0x0f, 0x10, 0x10, 0x0e, 0x01, 0x01, 0x1e]),
    ('T', [0x1f, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04]),
    ('V', [0x11, 0x11, 0x11, 0x11, 0x11, 0x0a, 0x04]),
    ('W', [0x11, 0x11, 0x11, 0x15, 0x15, 0x15, 0x0a]),
    ('X', [0x11, 0x11, 0x0a, 0x04, 0x0a, 0x11, 0x11]),
    ('Y', [0x11, 0x11, 0x11, 0x0a, 0x04, 0x04, 0x04]),
    ('Z', [0x1f, 0x01, 0x02, 0x04, 0x08, 0x10, 0x1f]),
    ('-', [0x00, 0x00, 0x00, 0x0e, 0x00, 0x00, 0x00]),
];

/// A QR code in half blocks, which every console's own font has: two rows a line, with its quiet zone. What is dark in the
/// code stays unlit. Empty for what is longer than a QR code can be.
pub fn picture(text: &str) -> Vec<String> {
    let Ok(code) = QrCode::new(text) else { return Vec::new() };
    let width = code.width();
    let inside = QUIET..width + QUIET;
    let is_light = |x: usize, y: usize| {
        let is_in = inside.contains(&x) && inside.contains(&y);
        !is_in || code[(x - QUIET, y - QUIET)] == qrcode::Color::Light
    };
    let whole = width + 2 * QUIET;
    in_half_blocks((whole, whole), is_light)
}

/// A word of a code in letters of blocks, four lines high; a symbol without a letter is left out.
pub fn letters(word: &str) -> Vec<String> {
    let rows = |symbol: char| LETTERS.iter().find(|(letter, _)| *letter == symbol).map(|(_, rows)| rows);
    let rows: Vec<_> = word.chars().filter_map(rows).collect();
    let is_lit =
        |x: usize, y: usize| rows[x / 6].get(y).is_some_and(|row| x % 6 < 5 && row >> (4 - x % 6) & 1 == 1);
    in_half_blocks((6 * rows.len(), 8), is_lit)
}

/// Lines of a picture of this width and height.
fn in_half_blocks((width, height): (usize, usize), is_lit: impl Fn(usize, usize) -> bool) -> Vec<String> {
    let block = |x: usize, y: usize| match (is_lit(x, y), is_lit(x, y + 1)) {
        (true, true) => '█',
        (true, false) => '▀',
        (false, true) => '▄',
        (false, false) => ' ',
    };
    (0..height).step_by(2).map(|y| (0..width).map(|x| block(x, y)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The points of a picture, as a camera sees them.
    fn seen(lines: &[String]) -> Vec<Vec<bool>> {
        let half = |line: &String, lit: [char; 2]| line.chars().map(|block| lit.contains(&block)).collect();
        lines.iter().flat_map(|line| [half(line, ['█', '▀']), half(line, ['█', '▄'])]).collect()
    }

    #[test]
    fn a_telephone_sees_the_code_with_light_around_it_in_29_columns_and_15_lines() {
        let lines = picture("WT0T-BSPH-K");
        assert_eq!((lines.len(), lines[0].chars().count()), (15, 29));
        let (points, code) = (seen(&lines), QrCode::new("WT0T-BSPH-K").unwrap());
        for (y, row) in points.iter().enumerate() {
            for (x, is_light) in row.iter().enumerate() {
                let is_in = (4..25).contains(&x) && (4..25).contains(&y);
                assert_eq!(*is_light, !is_in || code[(x - 4, y - 4)] == qrcode::Color::Light, "{x}, {y}");
            }
        }
    }

    #[test]
    fn every_symbol_of_a_code_has_a_letter_of_its_own() {
        let alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ-";
        let all: std::collections::HashSet<_> =
            alphabet.chars().map(|one| letters(&one.to_string())).collect();
        assert_eq!(all.len(), alphabet.len());
        assert_eq!(letters("T1"), ["▀▀█▀▀  ▄█   ", "  █     █   ", "  █     █   ", "  ▀    ▀▀▀  "]);
    }
}
