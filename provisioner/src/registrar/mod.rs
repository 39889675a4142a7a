//! Towards a pledge: TLS, messages, limits, EST, discovery.
