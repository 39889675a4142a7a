//! The life of a machine, the slots of a site and the reasons for every wait, as pure functions.
