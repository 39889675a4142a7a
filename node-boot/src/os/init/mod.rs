//! PID 1: brings a bare machine up, runs the agent, buries the dead, and never ends.

mod agent; // the agent: started again when it ends
mod early; // what the kernel leaves to us
mod modules; // drivers
pub mod power; // the end of a run, and the watchdog
mod root; // from the first archive to the system's own image
mod verity; // an image whose every block is checked

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

pub use root::OWNER;
pub use verity::Root;

use crate::console::{self, say};
use crate::trace::{self, Spent};

/// What the archive that the kernel starts from calls us.
const ARCHIVE: &str = "/init";
/// The firmware's table of memory that lasts: what it fetched over the network stands in there as a disk.
const MEMORY_DISKS: &str = "/sys/firmware/acpi/tables/NFIT";
/// Before a machine that cannot go on starts anew: long enough to read why.
const LAST_WORDS: Duration = Duration::from_mins(1);

/// Where the system of a machine that is ours runs from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum System {
    /// A stick: nothing lasts.
    Live,
    /// The machine's disk.
    Installed,
}

/// Which operating system runs, by the kernel's command line.
pub fn running() -> Result<Root> {
    root::root()
}

/// Whether the kernel started this program, under its own name for the first one: in a container it may be PID 1 too,
/// and is to do there what it is told.
pub fn is_init() -> bool {
    let name = std::env::args_os().next();
    let named = name.is_some_and(|name| Path::new(&name).file_name() == Path::new(ARCHIVE).file_name());
    rustix::process::getpid().is_init() && named
}

/// Everything, for the life of the machine.
pub fn run() -> ! {
    // What this program does not survive, the machine does not either.
    std::panic::set_hook(Box::new(|panic| last_words(&panic.to_string())));
    let Err(error) = go_on();
    last_words(&format!("{error:#}"))
}

/// Says why the machine starts anew, and lets that stand for as long as it takes to read.
fn last_words(why: &str) -> ! {
    console::fails(&format!(
        "This machine cannot start: {why}. It starts anew in a minute. If this comes again, call headquarters."
    ));
    std::thread::sleep(LAST_WORDS);
    // A kernel whose PID 1 ends panics, and starts anew as well.
    let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
    std::process::exit(1);
}

fn go_on() -> Result<std::convert::Infallible> {
    if Path::new(ARCHIVE).exists() {
        early::mount_kernels_own()?;
        early::quieten();
        console::on_screen("This machine");
        say("Starting.");
        trace::begin();
        trace::ended("the kernel", Spent::Kernel);
        modules::load_listed(Path::new("/modules"))?;
        if Path::new(MEMORY_DISKS).exists() {
            modules::load_listed(Path::new("/modules/memory"))?;
        }
        trace::ended("drivers of disks", Spent::Drivers);
        return root::switch();
    }
    console::on_screen("This machine");
    trace::begin();
    agent::keep_up(early::system()?)
}
