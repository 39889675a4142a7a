//! What is left of a site tells enough.
