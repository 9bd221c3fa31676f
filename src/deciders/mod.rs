//! The running engines: stats in, a tick every two seconds, decisions out.
