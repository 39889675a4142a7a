//! The registrar on site, and the commands of headquarters.

mod accept; // the next connection, whatever became of the last
pub mod cluster; // towards Kubernetes: attach, certificates, Nodes
pub mod hq; // keys, registrations, sites, bundles, reports; no async
pub mod model; // a site and its slots, as HQ writes them
pub mod plain; // text that comes from outside, as a person may read it
pub mod registrar; // towards a pledge: TLS, messages, limits, EST, discovery
pub mod render; // template x profile x site -> machine config
pub mod site; // store, admission, controller, clock, admin interface
mod yaml; // what people write, and what is wrong with it in words
