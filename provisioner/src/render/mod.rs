//! From template, profile, site and slot to the configuration of one machine.
