//! How numbers arrive: scraped from queue-proxies, or reported by activators over a websocket.
