//! The data path: queue-proxy beside each pod, activator in front of what is at zero.
