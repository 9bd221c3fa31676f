//! What people see of a running Ebb.
