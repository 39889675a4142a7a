//! What the tiers share: a whole site on real parts.

pub mod lock; // how many packages are locked
pub mod pledge; // a machine made of the wire crate alone
pub mod stage; // headquarters, cluster, provisioner, spare machines
pub mod tls; // ends of a connection that believe anybody
