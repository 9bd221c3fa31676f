//! Headers a proxy adds, takes away and acts upon.

use crate::api::names;
use http::header::{
    CONNECTION, COOKIE, FORWARDED, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Request};
use std::fmt::Write as _;
use std::net::IpAddr;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// The text of a header; absent or not text is empty.
pub fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
}

/// The host a request is for, without caring where its protocol keeps it.
pub fn host<B>(request: &Request<B>) -> Option<HeaderValue> {
    if let Some(host) = request.headers().get(HOST) {
        return Some(host.clone());
    }
    HeaderValue::from_str(request.uri().authority()?.as_str()).ok()
}

/// Gives a request another host, for either protocol.
pub fn set_host(headers: &mut HeaderMap, host: HeaderValue) {
    headers.insert(HOST, host);
}

/// Puts the host aside in `K-Original-Host`, as the activator does so that a mesh routes by address; one that stands
/// there already stays.
pub fn put_host_aside(headers: &mut HeaderMap) {
    if text(headers, names::ORIGINAL_HOST_HEADER).is_empty()
        && let Some(host) = headers.get(HOST).cloned()
    {
        headers.insert(names::ORIGINAL_HOST_HEADER, host);
    }
}

/// Brings the host back that [`put_host_aside`] put aside.
pub fn restore_host(headers: &mut HeaderMap) {
    if text(headers, names::ORIGINAL_HOST_HEADER).is_empty() {
        return;
    }
    if let Some(host) = headers.remove(names::ORIGINAL_HOST_HEADER) {
        set_host(headers, host);
    }
}

/// Takes away the headers by which an ingress tells the activator the revision; the user's process never sees them.
pub fn drop_revision(headers: &mut HeaderMap) {
    headers.remove(names::NAMESPACE_HEADER);
    headers.remove(names::REVISION_HEADER);
}

/// Takes away what is between two neighbours only, and what `Connection` names. `Trailer` and `TE: trailers` stay:
/// they are what lets trailers pass.
pub fn drop_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .filter(|name| *name != TE)
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    if headers.contains_key(TE) {
        let trailers = headers.get_all(TE).iter().any(|value| {
            value.to_str().is_ok_and(|value| value.split(',').any(|item| item.trim().eq_ignore_ascii_case("trailers")))
        });
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
    for name in [KEEP_ALIVE, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
}

/// Takes away what `Connection` names, so that what is put on from here on passes, whatever a client named there; the wish
/// to upgrade stays.
pub fn drop_named(headers: &mut HeaderMap) {
    let upgrade = wanted_upgrade(headers);
    let te = headers.get_all(TE).iter().cloned().collect::<Vec<_>>();
    drop_hop_by_hop(headers);
    for value in te {
        headers.append(TE, value);
    }
    if let Some(upgrade) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, upgrade);
    }
}

/// Makes one cookie header of the several that HTTP/2 may split it into and HTTP/1.1 may not.
pub fn join_cookies(headers: &mut HeaderMap) {
    let mut pieces = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (pieces.next(), pieces.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for piece in std::iter::once(second).chain(pieces) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(piece.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, joined);
    }
}

/// The protocol a request wants its connection to become, such as `websocket`.
pub fn wanted_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = headers.get_all(CONNECTION).iter().any(|value| {
        value.to_str().is_ok_and(|value| value.split(',').any(|item| item.trim().eq_ignore_ascii_case("upgrade")))
    });
    if asked { headers.get(UPGRADE).cloned() } else { None }
}

/// Adds the neighbour a request came from to `X-Forwarded-For`, as one value.
pub fn add_forwarded_for(headers: &mut HeaderMap, from: IpAddr) {
    let mut list = String::new();
    for earlier in headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()) {
        list.push_str(earlier);
        list.push_str(", ");
    }
    // Writing to a String cannot fail, and an address is always a header value.
    let _ = write!(list, "{from}");
    if let Ok(value) = HeaderValue::try_from(list) {
        headers.insert(FORWARDED_FOR, value);
    }
}

/// What the first proxy says of the client's request: `X-Forwarded-Host` and `X-Forwarded-Proto`. What a client sent
/// of its own is overwritten. For gateways.
pub fn announce<B>(request: &mut Request<B>, proto: &'static str) {
    if let Some(host) = host(request) {
        request.headers_mut().insert(FORWARDED_HOST, host);
    }
    request.headers_mut().insert(FORWARDED_PROTO, HeaderValue::from_static(proto));
}

/// Adds `Forwarded`, put together from the `X-Forwarded-*` headers, unless it is there already. As Knative's
/// queue-proxy does.
pub fn add_forwarded(headers: &mut HeaderMap) {
    if !text(headers, FORWARDED.as_str()).is_empty() {
        return;
    }
    let nodes = text(headers, FORWARDED_FOR.as_str());
    let host = text(headers, FORWARDED_HOST.as_str());
    let proto = text(headers, FORWARDED_PROTO.as_str());
    let mut parts = nodes.split(',').map(str::trim).filter(|node| !node.is_empty()).map(|node| {
        // An address with a colon is IPv6 and must be bracketed and quoted.
        if node.contains(':') { format!("for=\"[{node}]\"") } else { format!("for={node}") }
    });
    let mut first: Vec<String> = parts.next().into_iter().collect();
    if !host.is_empty() {
        first.push(format!("host={host}"));
    }
    if !proto.is_empty() {
        first.push(format!("proto={proto}"));
    }
    if first.is_empty() {
        return;
    }
    let value = std::iter::once(first.join(";")).chain(parts).collect::<Vec<_>>().join(", ");
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(FORWARDED, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().expect("a header value"));
        }
        headers
    }

    #[test]
    fn forwarded_is_put_together_from_what_is_there() {
        for (given, want) in [
            (&[][..], ""),
            (&[("x-forwarded-for", "1.2.3.4")], "for=1.2.3.4"),
            (&[("x-forwarded-for", "1.2.3.4,  5.6.7.8")], "for=1.2.3.4, for=5.6.7.8"),
            (&[("x-forwarded-for", "2001:db8::1")], "for=\"[2001:db8::1]\""),
            (&[("x-forwarded-proto", "http")], "proto=http"),
            (
                &[("x-forwarded-for", "1.2.3.4, 5.6.7.8"), ("x-forwarded-host", "a.b"), ("x-forwarded-proto", "https")],
                "for=1.2.3.4;host=a.b;proto=https, for=5.6.7.8",
            ),
            (&[("forwarded", "for=me"), ("x-forwarded-for", "1.2.3.4")], "for=me"),
        ] {
            let mut headers = map(given);
            add_forwarded(&mut headers);
            assert_eq!(text(&headers, "forwarded"), want, "{given:?}");
        }
    }

    #[test]
    fn what_is_between_neighbours_stays_between_them() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip, trailers"),
            ("trailer", "x-sum"),
            ("upgrade", "websocket"),
            ("content-type", "text/plain"),
        ]);
        drop_hop_by_hop(&mut headers);
        let mut left: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap_or(""))).collect();
        left.sort_unstable();
        assert_eq!(left, [("content-type", "text/plain"), ("te", "trailers"), ("trailer", "x-sum")]);
    }

    #[test]
    fn what_is_put_on_later_passes_whatever_a_client_named() {
        let mut headers = map(&[("connection", "Upgrade, foo"), ("upgrade", "websocket"), ("foo", "mine")]);
        drop_named(&mut headers);
        headers.insert("foo", HeaderValue::from_static("ours"));
        assert_eq!(wanted_upgrade(&headers).expect("an upgrade"), "websocket");
        drop_hop_by_hop(&mut headers);
        assert_eq!(text(&headers, "foo"), "ours");
    }

    #[test]
    fn split_cookies_become_one() {
        let mut headers = map(&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")]);
        join_cookies(&mut headers);
        assert_eq!(headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }

    #[test]
    fn each_proxy_adds_its_neighbour() {
        let mut headers = map(&[("x-forwarded-for", "10.0.0.1"), ("x-forwarded-for", "10.0.0.2")]);
        add_forwarded_for(&mut headers, IpAddr::from([127, 0, 0, 9]));
        assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);
        assert_eq!(text(&headers, "x-forwarded-for"), "10.0.0.1, 10.0.0.2, 127.0.0.9");
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        assert!(wanted_upgrade(&map(&[("upgrade", "websocket")])).is_none());
        assert!(wanted_upgrade(&map(&[("connection", "upgrade")])).is_none());
        let both = map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        assert_eq!(wanted_upgrade(&both).expect("an upgrade"), "websocket");
    }

    #[test]
    fn the_host_goes_aside_and_comes_back() {
        let mut headers = map(&[("host", "hello.default.example.com")]);
        put_host_aside(&mut headers);
        set_host(&mut headers, HeaderValue::from_static("10.0.0.1:8012"));
        restore_host(&mut headers);
        assert_eq!(text(&headers, "host"), "hello.default.example.com");
        assert!(!headers.contains_key(names::ORIGINAL_HOST_HEADER));
    }
}
