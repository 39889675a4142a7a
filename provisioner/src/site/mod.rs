//! The site: store, admission, controller, clock, admin interface.

pub mod cli;
