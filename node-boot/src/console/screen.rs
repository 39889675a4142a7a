//! The machine's own screen, where the whole system is ours: who it is, what came before, what it does or waits for now, and
//! what whoever stands before it can do.

use std::fs::File;
use std::io::Write as _;

use rustix::termios::tcgetwinsize;

use super::{code, font};

/// A screen that does not say how large it is.
const USUAL: (usize, usize) = (80, 25);
/// Distance from the left.
const MARGIN: &str = "  ";
/// Longer lines are hard to read.
const WIDEST: usize = 96;
/// From the top, over what is there: a screen that is cleared first flickers. Hides the cursor, and keeps the screen from going
/// dark.
const BEGIN: &str = "\x1b[0m\x1b[H\x1b[?25l\x1b[9;0]";
/// Clears the rest of a line, and at the end the rest of the screen.
const LINE_END: &str = "\x1b[K\r\n";
const END: &str = "\x1b[J";
/// Black on white, and bright: as large a difference as a screen can show.
const BRIGHT: &str = "\x1b[0;1;37m";
const PLAIN: &str = "\x1b[0m";
/// How wide a bar is at most.
const BAR: usize = 40;

/// What kind of thing the machine is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// It works, and goes on by itself.
    Works,
    /// It works on something of which so many of a hundred parts are done.
    Share(u8),
    /// It waits for something that it does not have in its hands.
    Waits,
    /// It shows a code, and waits for headquarters.
    Asks,
    /// It needs nothing.
    Well,
    /// It cannot go on.
    Failed,
    /// It is about to be off.
    Off,
}

impl Mood {
    /// What stands above the sentence.
    fn title(self) -> &'static str {
        match self {
            Self::Works | Self::Share(_) => "Now",
            Self::Waits => "It waits",
            Self::Asks => "Its code, for headquarters",
            Self::Well => "It is well",
            Self::Failed => "It cannot go on",
            Self::Off => "It is done",
        }
    }

    /// What a person can do.
    fn advice(self) -> &'static str {
        match self {
            Self::Works => "You need to do nothing: it goes on by itself.",
            Self::Share(_) => "You need to do nothing. Without power it begins this again.",
            Self::Waits => "You can leave it alone: it asks again by itself.",
            Self::Asks => "You can read this to headquarters, or send them the picture.",
            Self::Well => "You can switch it off by its power button, pressed shortly.",
            Self::Failed => "You can send headquarters a picture of this screen.",
            Self::Off => "You can pull its plug once this screen is dark.",
        }
    }
}

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

    /// From the next sentence on, another name stands on top.
    pub fn rename(&mut self, who: &str) {
        who.clone_into(&mut self.who);
    }

    /// Shows a sentence, or a code.
    pub fn show(&mut self, mood: Mood, text: &str) {
        if self.now != text {
            self.past.push(std::mem::replace(&mut self.now, text.to_owned()));
            // Of a code nothing is left once it is over.
            self.past.retain(|before| before.contains(' '));
        }
        // Each time: a driver that takes the screen over brings small letters again.
        font::enlarge(&self.out, self.size());
        let size = self.size();
        // A screen that is not there any more has nobody before it.
        let _ = self.out.write_all(frame(&self.who, &self.past, (mood, text), size).as_bytes());
    }

    /// Columns and lines.
    fn size(&self) -> (usize, usize) {
        let size = tcgetwinsize(&self.out).map_or(USUAL, |size| (size.ws_col.into(), size.ws_row.into()));
        if size.0 < 20 || size.1 < 8 { USUAL } else { size }
    }
}

/// Everything on a screen of this width and height.
fn frame(who: &str, past: &[String], (mood, text): (Mood, &str), (width, height): (usize, usize)) -> String {
    let room = (width - 2 * MARGIN.len()).min(WIDEST);
    let mut head = vec![String::new(), bright("node-boot")];
    let mut who = wrapped(who, room);
    if mood == Mood::Asks {
        // A picture needs the room of a small screen.
        who.truncate(1);
    }
    head.extend(who);
    head.push("─".repeat(room));
    let mut foot = wrapped(mood.advice(), room);
    foot.insert(0, String::new());
    let mut now = vec![mood.title().to_owned()];
    if mood == Mood::Asks {
        // The last line stays empty: a line's end there would move everything up.
        now.extend(asked(text, (room, height.saturating_sub(head.len() + now.len() + foot.len() + 1))));
    } else {
        now.extend(wrapped(text, room).iter().map(|line| bright(line)));
    }
    if let Mood::Share(percent) = mood {
        now.extend([String::new(), bright(&bar(percent, room))]);
    }
    // What came before has what is left: the latest of it, right above.
    let left = height.saturating_sub(head.len() + now.len() + foot.len() + 2);
    let past: Vec<String> = past.iter().flat_map(|sentence| wrapped(sentence, room)).collect();
    let past = &past[past.len().saturating_sub(left)..];
    let gap = if past.is_empty() && mood == Mood::Asks { &[][..] } else { &[String::new()] };
    let lines = [&head[..], past, gap, &now, &foot].concat();
    let lines = lines.iter().map(|line| format!("{MARGIN}{line}").trim_end().to_owned() + LINE_END);
    BEGIN.to_owned() + &lines.collect::<String>() + END
}

/// A code as picture and letters: beside each other, below each other, or with plain letters, as there is room.
fn asked(code: &str, (width, height): (usize, usize)) -> Vec<String> {
    let picture = code::picture(code);
    let words: Vec<_> = code.split('-').collect();
    let letters: Vec<_> = words.iter().flat_map(|word| code::letters(word)).collect();
    let longest = |lines: &[String]| lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    let wide = longest(&picture);
    let plain = code.chars().map(|symbol| symbol.to_string()).collect::<Vec<_>>().join(" ");
    if wide + 4 + longest(&letters) <= width && picture.len().max(letters.len() + 2) <= height {
        // Between the picture and its plain letters stand the large ones.
        let beside = [&letters[..], &[String::new(), plain]].concat();
        let line = |place: usize| {
            let left = picture.get(place).map_or("", String::as_str);
            bright(&format!("{left:<wide$}    {}", beside.get(place).map_or("", String::as_str)))
        };
        return (0..picture.len().max(beside.len())).map(line).collect();
    }
    let one_line = code::letters(code);
    let large = if longest(&one_line) <= width { one_line } else { letters };
    let plain = if plain.len() <= width { plain } else { code.to_owned() };
    let large = if large.len() + picture.len() <= height { large } else { vec![plain] };
    // A screen without room for the picture has its letters.
    let picture = if large.len() + picture.len() <= height { picture } else { Vec::new() };
    large.iter().chain(&picture).map(|line| bright(line)).collect()
}

fn bright(text: &str) -> String {
    format!("{BRIGHT}{text}{PLAIN}")
}

/// A bar that is filled so far, with its number.
fn bar(percent: u8, room: usize) -> String {
    let percent = usize::from(percent.min(100));
    let width = BAR.min(room.saturating_sub(6));
    let filled = width * percent / 100;
    format!("{}{} {percent} %", "█".repeat(filled), "░".repeat(width - filled))
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

    const WHO: &str = "Intel NUC12WSHi5, serial GEWS1240001X, TPM, encrypted, Secure Boot is off";
    const BEFORE: [&str; 2] = [
        "Secure Boot is off: this machine starts whatever is given to it.",
        "Found the provisioner at [fe80::1:21ff:fe8a:df2f%2]:7443 (mDNS).",
    ];
    /// Each stage of a machine's life, as it stands on the screen.
    const STAGES: [(&str, Mood, &str); 9] = [
        ("starting", Mood::Works, "Starting."),
        ("looking for the site", Mood::Works, "Looking for this site's provisioner on the network."),
        ("waiting", Mood::Waits, "Every place in the cluster is taken; this machine stands by."),
        ("code", Mood::Asks, "WT0T-BSPH-K"),
        ("installing", Mood::Share(40), "Installing on /dev/nvme0n1."),
        ("joined", Mood::Well, "This machine is part of the cluster. It needs nothing."),
        (
            "failure",
            Mood::Failed,
            "This machine cannot start: no disk has the system's image (os-1a2b3c4d). It starts anew in a minute. If \
             this comes again, call headquarters.",
        ),
        (
            "wiped",
            Mood::Off,
            "This machine is wiped. It can be installed anew, or go to somebody else. It switches itself off.",
        ),
        ("off", Mood::Off, "Switching off."),
    ];

    /// What stands on the screen, without what makes it bright.
    fn lines(frame: &str) -> Vec<String> {
        let mut plain = frame.replace(BEGIN, "");
        assert!(plain.ends_with(END) && plain.matches(LINE_END).count() == plain.matches("\r\n").count());
        for code in ["\x1b[K", END, BRIGHT, PLAIN] {
            plain = plain.replace(code, "");
        }
        plain.split("\r\n").map(|line| line.trim_end().to_owned()).collect()
    }

    /// Every stage on a screen of this width.
    fn stages(width: usize) -> String {
        let past = BEFORE.map(str::to_owned);
        let stage = |(name, mood, text): (&str, Mood, &str)| {
            let past = if name == "starting" { &[][..] } else { &past };
            let shown = lines(&frame(WHO, past, (mood, text), (width, 25)));
            assert!(shown.len() <= 25, "{name}: {} lines", shown.len());
            assert!(shown.iter().all(|line| line.chars().count() <= width), "{name}: {shown:#?}");
            format!("== {name}\n{}\n", shown.join("\n").trim_end())
        };
        STAGES.into_iter().map(stage).collect()
    }

    #[test]
    fn every_stage_stands_on_a_screen_of_40_columns() {
        assert_eq!(stages(40), include_str!("stages-40.txt"), "{}", stages(40));
    }

    #[test]
    fn every_stage_stands_on_a_screen_of_80_columns() {
        assert_eq!(stages(80), include_str!("stages-80.txt"), "{}", stages(80));
    }

    #[test]
    fn the_sentence_stands_below_what_came_before_at_any_width() {
        let past: Vec<_> = (0..60).map(|n| format!("Sentence number {n} of a long life at sea.")).collect();
        let now = "Looking for this site's provisioner on the network.";
        for (width, height) in [(40, 25), (80, 25), (240, 67)] {
            let shown = lines(&frame(WHO, &past, (Mood::Works, now), (width, height)));
            assert!(shown.len() <= height, "{} lines", shown.len());
            assert!(shown.iter().all(|line| line.chars().count() <= width), "{shown:#?}");
            let text = shown.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(text.starts_with(&format!("node-boot {WHO} ─")), "{text}");
            let end = format!("{} Now {now} {}", past[59], Mood::Works.advice());
            assert!(text.ends_with(&end), "{text}");
        }
    }

    #[test]
    fn a_code_is_there_on_every_screen_and_its_picture_where_there_is_room() {
        for (size, large, picture) in
            [((80, 25), true, true), ((40, 25), false, true), ((40, 50), true, true), ((20, 8), false, false)]
        {
            let shown = lines(&frame(WHO, &[], (Mood::Asks, "WT0T-BSPH-K"), size));
            let has =
                |lines: Vec<String>| lines.iter().all(|line| shown.iter().any(|it| it.contains(line.trim())));
            assert_eq!(has(code::letters("BSPH")), large, "{size:?}: {shown:#?}");
            assert_eq!(has(code::picture("WT0T-BSPH-K")), picture, "{size:?}: {shown:#?}");
            assert!(large || has(vec!["W T 0 T - B S P H - K".to_owned()]) || size.0 == 20, "{shown:#?}");
        }
    }

    #[test]
    fn a_word_that_is_too_long_is_cut() {
        assert_eq!(wrapped("a bcdefgh i", 4), ["a", "bcde", "fgh", "i"]);
    }
}
