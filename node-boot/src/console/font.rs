//! The letters of the machine's own screen, twice as large where that leaves it 80 columns: who stands before it may stand two
//! metres away.

use std::fs::File;
use std::os::fd::AsRawFd as _;

/// The kernel's own letters, in dots.
const WIDTH: u32 = 8;
/// For each letter the kernel keeps so many lines of dots, however high it is (`linux/kd.h`).
const LINES: u32 = 32;
/// So many letters there are at most.
const LETTERS: u32 = 512;
/// What a screen with large letters has to have room for, in small ones.
const ENOUGH: (usize, usize) = (160, 50);

/// `struct console_font_op` (`linux/kd.h`).
#[repr(C)]
struct Asked {
    what: u32,
    flags: u32,
    width: u32,
    height: u32,
    letters: u32,
    data: *mut u8,
}

/// Has a console of this many columns and lines show large letters, where it can and does not yet.
pub fn enlarge(console: &File, (columns, lines): (usize, usize)) {
    /// `KD_FONT_OP_SET`.
    const SET: u32 = 0;
    /// `KD_FONT_OP_GET`.
    const GET: u32 = 1;
    if columns < ENOUGH.0 || lines < ENOUGH.1 {
        return;
    }
    let mut data = vec![0; (LETTERS * 4 * LINES) as usize];
    let mut asked =
        Asked { what: GET, flags: 0, width: 32, height: LINES, letters: LETTERS, data: data.as_mut_ptr() };
    if !ask(console, &mut asked) || asked.width != WIDTH || asked.height > LINES / 2 {
        return;
    }
    let (height, letters) = (asked.height as usize, asked.letters.min(LETTERS) as usize);
    let mut large = twice(&data[..letters * LINES as usize], height);
    asked =
        Asked { what: SET, width: WIDTH * 2, height: asked.height * 2, data: large.as_mut_ptr(), ..asked };
    // A screen that cannot keeps its letters.
    ask(console, &mut asked);
}

fn ask(console: &File, asked: &mut Asked) -> bool {
    /// `KDFONTOP`.
    const FONT: u64 = 0x4b72;
    // SAFETY: the structure is as the kernel's header has it; its data has room for the widest letters, and lives until the
    // kernel has answered.
    #[allow(unsafe_code)]
    let done = unsafe { libc::ioctl(console.as_raw_fd(), FONT as _, std::ptr::from_mut(asked)) };
    done == 0
}

/// Letters of one byte in each of their lines, each dot of which becomes four.
fn twice(letters: &[u8], height: usize) -> Vec<u8> {
    let wide =
        |dots: u8| (0..8).fold(0u16, |wide, dot| wide | (u16::from((dots >> dot) & 1) * 3) << (2 * dot));
    let letter = |small: &[u8]| {
        let mut large = vec![0; 2 * LINES as usize];
        for (pair, dots) in large.chunks_exact_mut(4).zip(&small[..height]) {
            pair.copy_from_slice(&[wide(*dots).to_be_bytes(), wide(*dots).to_be_bytes()].concat());
        }
        large
    };
    letters.chunks_exact(LINES as usize).flat_map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dot_of_a_letter_becomes_four() {
        const LINES: usize = super::LINES as usize;
        let mut small = vec![0; 2 * LINES];
        small[0] = 0b1000_0001;
        small[15] = 0b0101_0000;
        small[LINES] = 0xff;
        small[LINES + 16] = 0xff;
        let large = twice(&small, 16);
        assert_eq!(large.len(), 4 * LINES);
        assert_eq!(large[..4], [0xc0, 0x03, 0xc0, 0x03]);
        assert_eq!(large[4 * 15..4 * 16], [0x33, 0x00, 0x33, 0x00]);
        assert_eq!(large[2 * LINES..2 * LINES + 5], [0xff, 0xff, 0xff, 0xff, 0]);
        // What is below a letter's height is none of its dots.
        assert!(large[2 * LINES + 4..].iter().all(|dots| *dots == 0));
    }
}
