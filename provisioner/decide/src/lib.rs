//! The life of a machine, the slots of a site and the reasons for every wait, as pure functions.
//!
//! No clock, socket, disk or cluster in here. The edge gathers [`Seen`] in one go, calls [`settle`], saves the life,
//! and then makes every duty of [`duties`] true again. A crash in between loses nothing: the next look sees the same.

mod alarm; // what people are told of at once
mod bank; // which image a machine is told to stage or to try, or why it waits
mod duty; // what has to be true while a machine leads a life
mod found; // which machine founds the cluster
mod guard; // when nothing may be replaced
mod life; // the lives, and the facts they depend on
mod reason; // why it waits, in words
mod slots; // which machine gets which slot
mod step; // from life to life
mod version; // which kubelet fits which API server

pub use alarm::Alarm;
pub use bank::{Banks, Step, Store, Terms, Why as BankWhy, step as bank_step};
pub use duty::{Act, Duty, duties};
pub use found::{Founder, Founding, founds};
pub use guard::{Fleet, may_replace};
pub use life::{Kubelet, Life, Node, Offer, Proof, Record, Seen, Why, Word};
pub use reason::{Code, Deadline, NOT_SEEN, Reason, Unseen, reason};
pub use slots::{Candidate, Needs, Slot, assign};
pub use step::{patience, settle, step, wants_slot};
pub use version::{Skew, Version};
