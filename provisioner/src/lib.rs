//! The registrar on site, and the commands of headquarters.
