//! What crosses the wire between a machine and its site, and what headquarters signs.
