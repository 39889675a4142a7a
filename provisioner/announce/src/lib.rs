//! A service announced and answered for on every cable of this computer, by a thread of its own.
//!
//! What is said is decided by [`protocol::responder`]; here are only sockets and the clock.

mod wire; // one interface and kind of address: its socket

use std::io::{PipeReader, PipeWriter, Read as _, Write as _};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use protocol::responder::Service;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::wire::Wire;

/// Between two looks for interfaces and addresses that came or went.
const LOOK: Duration = Duration::from_millis(500);

/// Which address of which interface may be named.
type May = Box<dyn Fn(&str, IpAddr) -> bool + Send>;

/// Whether an interface leads out of this computer, and not to itself or its Pods.
pub fn is_cable(interface: &str) -> bool {
    interface != "lo" && !is_of_pods(interface)
}

/// Whether an interface leads to the Pods of this computer.
pub fn is_of_pods(interface: &str) -> bool {
    interface == "cni0" || interface.starts_with("veth")
}

/// A standing announcement; taken back in order when dropped.
pub struct Announcer {
    orders: Arc<Mutex<Orders>>,
    wake: PipeWriter,
    thread: Option<JoinHandle<()>>,
}

struct Orders {
    service: Service,
    news: bool,
    end: bool,
}

impl Announcer {
    /// Announces `service` wherever `may` lets an interface, by name, show an address. It needs nobody: interfaces may
    /// come later, and where port 5353 cannot be had it tries again in silence.
    pub fn start(
        service: Service,
        may: impl Fn(&str, IpAddr) -> bool + Send + 'static,
    ) -> std::io::Result<Self> {
        let (awoken, wake) = std::io::pipe()?;
        let orders = Arc::new(Mutex::new(Orders { service, news: false, end: false }));
        let shared = Arc::clone(&orders);
        let may: May = Box::new(may);
        let thread = thread::Builder::new().name("announce".into());
        let thread = thread.spawn(move || run(&shared, &awoken, &may))?;
        Ok(Self { orders, wake, thread: Some(thread) })
    }

    /// From now on its TXT record has these strings; everybody is told.
    pub fn say(&self, texts: Vec<String>) {
        self.order(|orders| {
            orders.news |= orders.service.texts != texts;
            orders.service.texts = texts;
        });
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut self.orders.lock().unwrap_or_else(PoisonError::into_inner));
        // A full pipe wakes it as well.
        let _ = (&self.wake).write(&[0]);
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.order(|orders| orders.end = true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(orders: &Mutex<Orders>, awoken: &PipeReader, may: &May) {
    let mut wires: Vec<Wire> = Vec::new();
    let mut look = Instant::now();
    loop {
        let now = Instant::now();
        let (service, news, end) = {
            let mut orders = orders.lock().unwrap_or_else(PoisonError::into_inner);
            (orders.service.clone(), std::mem::take(&mut orders.news), orders.end)
        };
        if end {
            return wires.iter().for_each(|wire| wire.part(&service));
        }
        if now >= look {
            wire::refresh(&mut wires, may, now);
            look = now + LOOK;
        }
        for wire in &mut wires {
            if news {
                wire.cable.changed(now);
            }
            wire.speak(&service, now);
        }
        let until = wires.iter().filter_map(|wire| wire.cable.due()).fold(look, Instant::min);
        wait(awoken, &wires, until);
        // One that fails is opened again at the next look.
        wires.retain_mut(|wire| wire.listen(&service).is_ok());
    }
}

/// Until something can be read or the time has come.
fn wait(mut awoken: &PipeReader, wires: &[Wire], until: Instant) {
    let left = until.saturating_duration_since(Instant::now());
    let left = Timespec::try_from(left).ok();
    let mut fds = vec![PollFd::new(&awoken, PollFlags::IN)];
    fds.extend(wires.iter().map(|wire| PollFd::new(&wire.socket, PollFlags::IN)));
    let polled = poll(&mut fds, left.as_ref());
    if polled.is_ok() && fds[0].revents().contains(PollFlags::IN) {
        let _ = awoken.read(&mut [0; 64]);
    }
}
