//! What headquarters does: keys, registrations, sites, bundles, reports.

pub mod cli;
