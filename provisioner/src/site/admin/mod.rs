//! The one admin interface: one line of JSON asks, one line answers, over a local socket.

mod act; // what each question does
pub mod backup; // everything that cannot be made again, in one file
pub mod client; // asking
pub mod est; // machines that are not ours and may ask for a certificate once
mod server; // answering

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::machine::Said;

pub use self::client::ask;
pub use self::server::serve;

/// Name of the socket in the provisioner's folder.
pub const SOCKET: &str = "admin.sock";
/// Name of the file that gives roles to more users of this computer.
pub const ROLES: &str = "roles.json";
/// No question is longer, bytes.
pub const LIMIT: usize = 64 * 1024;

/// What may be asked: `{"do": "explain", "machine": "mc_01"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ask {
    /// Every machine.
    Machines {
        /// Those too that never spoke here.
        #[serde(default)]
        all: bool,
    },
    /// Every slot.
    Slots {},
    /// Where one machine stands, and why.
    Explain {
        /// What a person calls it.
        machine: String,
    },
    /// Machines that show a code.
    Claims {},
    /// Whether all is well.
    Health {},
    /// The files that a machine would be sent.
    Render {
        /// What a person calls it.
        machine: String,
    },
    /// Open the window for machines that nobody registered.
    Window {
        /// For so long, 1 to 60.
        minutes: u32,
    },
    /// HQ's answer by voice.
    Approve {
        /// The slot.
        slot: String,
        /// The code that HQ said.
        code: String,
    },
    /// A person's word on one machine.
    Say {
        /// What a person calls it.
        machine: String,
        /// Yes, no, retire; nothing takes back what was said.
        word: Option<Said>,
    },
    /// Let a machine overwrite what one of its disks holds.
    Overwrite {
        /// What a person calls it.
        machine: String,
        /// The disk's mark, as the machine shows it.
        mark: String,
    },
    /// Take a machine out of service, and have its disk erased when it speaks.
    Wipe {
        /// What a person calls it.
        machine: String,
    },
    /// Take a file that lies in the inbox under a name the watcher leaves alone.
    Apply {
        /// Its name there.
        name: String,
    },
    /// What is in a cluster from the beginning: manifests by name.
    Seed {},
    /// Write a report.
    Report {},
    /// Copy everything that cannot be made again into one file in the provisioner's folder.
    Backup {},
    /// Let machines try what was staged.
    Activate {},
    /// Let a machine that is not ours ask for a certificate once.
    EstClient {
        /// The name its certificate will bear.
        name: String,
    },
}

/// A person's word was noted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heeded {
    /// The id of the machine's registration.
    pub machine: String,
    /// By what it was seen to run at that moment; none where it was not.
    pub running: Option<String>,
}

/// Who may do what; each may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// May look.
    View,
    /// May say yes and no to machines.
    Approve,
    /// May do everything.
    Admin,
}

impl Role {
    /// As it is written in `roles.json`.
    pub fn word(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Approve => "approve",
            Self::Admin => "admin",
        }
    }
}

impl Ask {
    /// The least role that may ask this. A rendered configuration can hold what is only for its machine.
    pub fn needs(&self) -> Role {
        match self {
            Self::Machines { .. }
            | Self::Slots {}
            | Self::Explain { .. }
            | Self::Claims {}
            | Self::Health {} => Role::View,
            Self::Window { .. } | Self::Approve { .. } | Self::Say { .. } | Self::Activate {} => {
                Role::Approve
            }
            Self::Overwrite { .. }
            | Self::Wipe { .. }
            | Self::Apply { .. }
            | Self::Seed {}
            | Self::Report {}
            | Self::Render { .. }
            | Self::Backup {}
            | Self::EstClient { .. } => Role::Admin,
        }
    }

    /// What the audit line says: everything but a code, which is good until it is used.
    pub fn told(&self) -> String {
        match self {
            Self::Machines { all: false } => "list the machines".to_owned(),
            Self::Machines { all: true } => "list all machines".to_owned(),
            Self::Slots {} => "list the slots".to_owned(),
            Self::Explain { machine } => format!("explain {machine}"),
            Self::Claims {} => "list the claims".to_owned(),
            Self::Health {} => "ask whether all is well".to_owned(),
            Self::Render { machine } => format!("render for {machine}"),
            Self::Window { minutes } => format!("open the window for {minutes} min"),
            Self::Approve { slot, .. } => format!("approve by voice for {slot}"),
            Self::Say { machine, word: Some(Said::Yes) } => format!("say yes to {machine}"),
            Self::Say { machine, word: Some(Said::No) } => format!("say no to {machine}"),
            Self::Say { machine, word: Some(Said::Retire) } => format!("retire {machine}"),
            Self::Say { machine, word: None } => format!("take back what was said of {machine}"),
            Self::Overwrite { machine, mark } => format!("let {machine} overwrite its disk {mark}"),
            Self::Wipe { machine } => format!("wipe {machine}"),
            Self::Apply { name } => format!("apply {name}"),
            Self::Seed {} => "read the seed of the cluster".to_owned(),
            Self::Report {} => "write a report".to_owned(),
            Self::Backup {} => "make a backup".to_owned(),
            Self::Activate {} => "let machines try what was staged".to_owned(),
            Self::EstClient { name } => format!("let {name} ask for a certificate once"),
        }
    }
}

/// The roles of the users of this computer, from `roles.json`: `{"users": {"1000": "approve"}, "groups": {"27": "view"}}`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roles {
    #[serde(default)]
    users: BTreeMap<u32, Role>,
    #[serde(default)]
    groups: BTreeMap<u32, Role>,
}

impl Roles {
    /// The roles given in a provisioner's folder. A file that cannot be read gives none.
    pub fn load(dir: &Path) -> Self {
        let Ok(bytes) = std::fs::read(dir.join(ROLES)) else { return Self::default() };
        serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!(%error, "{ROLES} gives nobody a role: it cannot be read");
            Self::default()
        })
    }

    /// The role of a user: root and the owner of the socket may do everything; others what they were given, the
    /// greater of their own and their group's.
    pub fn of(&self, owner: u32, uid: u32, gid: u32) -> Option<Role> {
        if uid == 0 || uid == owner {
            return Some(Role::Admin);
        }
        self.users.get(&uid).max(self.groups.get(&gid)).copied()
    }
}

#[cfg(test)]
mod tests;
