//! Programs that are to run: started in order, started again when they end, with growing pauses.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use super::logs::{self, Log};
use crate::console::say;

/// A program that ran this long was well: the next pause is short again.
const WELL: Duration = Duration::from_mins(1);
/// Longest pause before a program is started again.
const LONGEST: Duration = Duration::from_mins(1);
/// How long a service may take until it answers.
const READY: Duration = Duration::from_mins(1);

/// A service, as the machine's configuration names it.
#[derive(Clone, Debug, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// How it shows that it is ready.
    pub ready: Ready,
}

/// How a service shows that it is ready.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ready {
    /// It listens on this socket.
    Unix(String),
    /// It answers 200 here: `http://address:port/path`.
    Http(String),
}

struct Running {
    service: Service,
    child: Option<Child>,
    started: Instant,
    pause: Duration,
    again_at: Instant,
    /// How often it has ended by itself since somebody started it.
    ends: u32,
}

/// Services that run, watched by a thread of their own: they are kept up whatever the agent is waiting for.
pub struct Services {
    all: Arc<Mutex<Vec<Running>>>,
    ends: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
}

/// Between two looks at what has ended.
const GLANCE: Duration = Duration::from_millis(200);

impl Services {
    /// Starts them one after the other, each once the one before is ready and `then` was done with its name.
    pub fn start(services: Vec<Service>, mut then: impl FnMut(&str)) -> Result<Self> {
        let mut all = Vec::new();
        for service in services {
            let now = Instant::now();
            let pause = Duration::from_secs(1);
            let mut running = Running { service, child: None, started: now, pause, again_at: now, ends: 0 };
            running.start();
            // The next one may need it; one that does not answer in its time keeps nobody waiting.
            running.await_ready();
            then(&running.service.name);
            all.push(running);
        }
        let (all, ends) = (Arc::new(Mutex::new(all)), Arc::new(AtomicBool::new(false)));
        let (watched, end) = (Arc::clone(&all), Arc::clone(&ends));
        let mut bounded = Instant::now();
        let watch = move || {
            while !end.load(Ordering::Relaxed) {
                // Starts again what has ended and whose pause is over.
                lock(&watched).iter_mut().for_each(Running::watch);
                if bounded.elapsed() > WELL {
                    lock(&watched).iter().for_each(|running| running.log().bound());
                    bounded = Instant::now();
                }
                std::thread::sleep(GLANCE);
            }
        };
        let watcher = std::thread::Builder::new().name("services".into()).spawn(watch)?;
        Ok(Self { all, ends, watcher: Some(watcher) })
    }

    /// Ends them, the last first.
    pub fn stop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(watcher) = self.watcher.take() {
            // A watcher that panicked has nothing left to end.
            let _ = watcher.join();
        }
        for running in lock(&self.all).iter_mut().rev() {
            running.stop();
        }
    }

    /// A way to one of them for whoever else has to do with it.
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.all))
    }

    /// Whether all run.
    pub fn well(&self) -> bool {
        lock(&self.all).iter().all(|running| running.child.is_some())
    }
}

/// A way to services that run.
#[derive(Clone)]
pub struct Handle(Arc<Mutex<Vec<Running>>>);

impl Handle {
    /// Ends the service of this name, does `work`, and starts the service again.
    pub fn restart<T>(&self, name: &str, work: impl FnOnce() -> T) -> T {
        let mut all = lock(&self.0);
        let mut service = all.iter_mut().find(|running| running.service.name == name);
        if let Some(running) = &mut service {
            running.stop();
        }
        let done = work();
        if let Some(running) = service {
            running.ends = 0;
            running.start();
        }
        done
    }

    /// How often the service of this name has ended by itself since it was started here.
    pub fn ends(&self, name: &str) -> u32 {
        lock(&self.0).iter().find(|running| running.service.name == name).map_or(0, |running| running.ends)
    }
}

fn lock(all: &Mutex<Vec<Running>>) -> MutexGuard<'_, Vec<Running>> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Running {
    fn start(&mut self) {
        let Some((program, arguments)) = self.service.argv.split_first() else { return };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(self.log().end()).stderr(self.log().end());
        // Its own group: what stops the agent on a terminal does not stop the machine's Pods.
        command.process_group(0);
        self.started = Instant::now();
        match command.spawn() {
            Ok(child) => self.child = Some(child),
            Err(error) => {
                say(&format!("{} cannot be started: {error}.", self.service.name));
                self.rest();
            }
        }
    }

    fn log(&self) -> Log {
        Log::of(Path::new(logs::FOLDER), &self.service.name)
    }

    fn rest(&mut self) {
        self.again_at = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST);
    }

    fn watch(&mut self) {
        if let Some(child) = &mut self.child {
            if let Ok(Some(status)) = child.try_wait() {
                self.child = None;
                self.ends += 1;
                if self.started.elapsed() > WELL {
                    self.pause = Duration::from_secs(1);
                }
                let (name, pause) = (&self.service.name, self.pause.as_secs());
                let last = self.log().last().map(|line| format!(": {line:?}")).unwrap_or_default();
                say(&format!("{name} has ended ({status}{last}); it is started again in {pause} s."));
                self.rest();
            }
        } else if Instant::now() >= self.again_at {
            self.start();
        }
    }

    fn await_ready(&mut self) {
        let deadline = Instant::now() + READY;
        while Instant::now() < deadline {
            if self.child.is_none() || is_ready(&self.service.ready).is_ok() {
                return;
            }
            self.watch();
            std::thread::sleep(Duration::from_millis(20));
        }
        say(&format!("{} does not answer; going on without it.", self.service.name));
    }

    fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // Where it has ended by itself it is not collected yet: the number is still its own.
        let _ = kill_process(Pid::from_child(&child), Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn is_ready(ready: &Ready) -> Result<()> {
    match ready {
        Ready::Unix(path) => {
            UnixStream::connect(path).map(drop).with_context(|| format!("connecting to {path}"))
        }
        Ready::Http(url) => {
            let rest = url.strip_prefix("http://").context("an http:// address")?;
            let (address, path) = rest.split_once('/').context("a path")?;
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(format!("GET /{path} HTTP/1.0\r\n\r\n").as_bytes())?;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer)?;
            anyhow::ensure!(answer.ends_with(b" 200"), "it answers {}", String::from_utf8_lossy(&answer));
            Ok(())
        }
    }
}
