//! What a machine says of its hardware: facts, never proofs.

use serde::{Deserialize, Serialize};

/// Facts about a machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Facts {}
