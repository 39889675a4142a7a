//! What a person at the machine reads: one plain sentence at every moment, each only once.

mod code; // a code, large
mod font; // letters, large
mod screen; // the machine's own screen

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use protocol::refusal::{Refusal, Wait};

pub use self::code::picture;
use self::screen::{Mood, Screen};

/// No word of a site is shown longer.
const LONGEST_WORD: usize = 40;

static LAST: Mutex<String> = Mutex::new(String::new());

/// Where the machine stands, and the file that `status` reads it from.
static STANDS: Mutex<(String, Option<PathBuf>)> = Mutex::new((String::new(), None));
/// How much of a hundred parts was shown last, and of what.
static SHOWN: Mutex<(u8, String)> = Mutex::new((0, String::new()));

/// The machine's own screen, where it has one and the whole system is ours.
static SCREEN: Mutex<Option<Screen>> = Mutex::new(None);
/// Terminal that is in front.
const FRONT: &str = "/dev/tty0";

/// From now on the machine's own screen shows what is said, beside the terminal; `who` stands on top of it.
pub fn on_screen(who: &str) {
    let mut screen = SCREEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(screen) = screen.as_mut() {
        screen.rename(&clean(who));
    } else if let Ok(front) = File::options().write(true).read(true).open(FRONT) {
        *screen = Some(Screen::new(front, &clean(who)));
    }
}

/// From now on [`stands`] is kept in this file.
pub fn keep_in(file: PathBuf) {
    STANDS.lock().unwrap_or_else(PoisonError::into_inner).1 = Some(file);
}

/// Says where the machine stands until something changes, and keeps that for `status`. Its file is written when the
/// sentence is another one: the file's time says since when.
pub fn stands(sentence: &str) {
    show(Mood::Waits, &clean(sentence));
    keep(sentence);
}

/// The same for a machine that needs nothing.
pub fn rests(sentence: &str) {
    show(Mood::Well, &clean(sentence));
    keep(sentence);
}

/// Says why the machine cannot go on.
pub fn fails(sentence: &str) {
    show(Mood::Failed, &clean(sentence));
}

/// Says that the machine is about to be off.
pub fn ends(sentence: &str) {
    show(Mood::Off, &clean(sentence));
}

/// How far what was said last has come, of `all`: a bar on the screen. The terminal hears of each quarter.
pub fn progress(done: u64, all: u64) {
    let share = |part: u64, of: u64| u8::try_from(done.min(all) * part / of.max(1)).unwrap_or(100);
    let percent = share(100, all);
    let sentence = LAST.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if *shown == (percent, sentence.clone()) {
        return;
    }
    if shown.1 == sentence && shown.0 / 25 < percent / 25 && percent < 100 {
        println!("{} % of it are done.", percent / 25 * 25);
    }
    on_the_screen(Mood::Share(percent), &sentence);
    *shown = (percent, sentence);
}

fn keep(sentence: &str) {
    let mut stands = STANDS.lock().unwrap_or_else(PoisonError::into_inner);
    let (last, Some(file)) = &mut *stands else { return };
    if last != sentence {
        // It is on the screen; a disk without room does not keep a machine from joining.
        let _ = std::fs::write(file, clean(sentence));
        sentence.clone_into(last);
    }
}

/// Says a sentence, unless it was the last one said. It stays one line, whoever had a word in it.
pub fn say(sentence: &str) {
    show(Mood::Works, &clean(sentence));
}

/// Without what moves a cursor, colours a terminal or turns text around: who writes on this screen is this program.
pub fn clean(text: &str) -> String {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars().map(|c| if harmful(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Our own sentence for the word by which a site lets this machine wait. Its sentence is not shown: before it has proved
/// itself it could ask in our name.
pub fn why_wait(word: &str) -> String {
    let wait = Wait::from_code(word).map(Wait::sentence);
    wait.or_else(|| refusal(word)).map_or_else(|| unheard_of(word), str::to_owned)
}

/// The same for the word by which it says no.
pub fn why_not(word: &str) -> String {
    refusal(word).map_or_else(|| unheard_of(word), |sentence| format!("{sentence} ({word})"))
}

fn refusal(word: &str) -> Option<&'static str> {
    Refusal::from_code(word).map(|refusal| refusal.sentence().trim_end_matches(": "))
}

fn unheard_of(word: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '?' };
    let word: String = word.chars().take(LONGEST_WORD).map(safe).collect();
    format!("The provisioner said something this version does not know ({word}).")
}

fn show(mood: Mood, sentence: &str) {
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if *last != sentence {
        println!("{sentence}");
        on_the_screen(mood, sentence);
        sentence.clone_into(&mut last);
    }
}

fn on_the_screen(mood: Mood, text: &str) {
    if let Some(screen) = SCREEN.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        screen.show(mood, text);
    }
}

/// Shows a code large: as text, and as a picture for a telephone.
pub fn show_code(code: &str) {
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if *last != code {
        println!("{}", large(code));
        on_the_screen(Mood::Asks, code);
        code.clone_into(&mut last);
    }
    drop(last);
    keep(&format!("Waiting for headquarters to approve the code {code}."));
}

/// For terminals of any width.
fn large(code: &str) -> String {
    let spaced: Vec<_> = code.chars().map(|symbol| symbol.to_string()).collect();
    let picture = picture(code).join("\n");
    format!("\n    {}\n\n{picture}\nRead this code to headquarters:\n    {code}\n", spaced.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_moves_no_cursor_and_makes_no_line_of_its_own() {
        let hostile = "Fine.\x1b[2J\r\nHeadquarters approved\u{9b}1m this\u{202e}machine\u{2028}\x07";
        let shown = clean(hostile);
        assert!(shown.chars().all(|c| !c.is_control()), "{shown:?}");
        assert!(!shown.contains(['\u{202e}', '\u{2028}']), "{shown:?}");
        assert!(shown.starts_with("Fine.\u{fffd}[2J\u{fffd}\u{fffd}Headquarters"), "{shown:?}");
        assert_eq!(clean("Größe 4 – gut"), "Größe 4 – gut");
    }

    #[test]
    fn of_an_unproven_site_only_the_word_counts() {
        assert_eq!(why_wait("unknown"), Wait::Unknown.sentence());
        assert_eq!(why_wait("slow-down"), Refusal::SlowDown.sentence());
        assert_eq!(why_not("unknown"), format!("{} (unknown)", Refusal::Unknown.sentence()));
        assert_eq!(why_not("lost"), format!("{} (lost)", Refusal::Lost.sentence()));
        let word = format!("yes\x1b[1m Is it to join?{}", "x".repeat(100));
        let said = why_not(&word);
        assert!(said.starts_with("The provisioner said something this version does not know (yes??1m?Is?it"));
        assert!(said.len() < 110 && why_wait(&word) == said, "{said:?}");
    }

    #[test]
    fn a_code_stands_on_a_terminal_of_40_columns_with_its_picture() {
        let shown = large("WT0T-BSPH-K");
        assert!(shown.lines().all(|line| line.chars().count() <= 40), "{shown}");
        assert!(shown.contains("\n    W T 0 T - B S P H - K\n\n"), "{shown}");
        assert!(shown.contains(&code::picture("WT0T-BSPH-K").join("\n")), "{shown}");
        assert!(shown.ends_with("Read this code to headquarters:\n    WT0T-BSPH-K\n"), "{shown}");
    }
}
