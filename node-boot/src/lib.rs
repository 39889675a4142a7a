//! The agent on the machine: discover, identify, enroll, configure, join.
