//! How numbers arrive: scraped from queue-proxies, or reported by activators over a websocket.
//!
//! Reading order: [`wire`] (what a number looks like on the wire), [`sample`] (how few pods speak for many),
//! [`scrape`] over [`fetch`] (asking queue-proxies), [`server`] (being told by activators), [`client`] (telling), [`forward`] (passing on);
//! [`limit`] keeps one bad peer from filling the log.
//!
//! # Invariants
//!
//! - [`wire`] and [`sample`] are pure.
//! - Whatever is read is bounded before it is read: bodies, frames, connections, queues.
//! - What is dropped is counted.

pub mod client;
pub mod fetch;
pub mod forward;
pub mod limit;
pub mod sample;
pub mod scrape;
pub mod server;
pub mod wire;
