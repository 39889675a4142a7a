//! What the tiers share: a whole site on real parts.

pub mod stage;
