//! A site for tests: a LAN with its switch, a control plane, and machines, each in namespaces of its own.
