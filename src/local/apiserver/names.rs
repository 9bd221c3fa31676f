//! Which names objects may have, and names made up from a prefix.

use rand::RngExt as _;

/// Letters that form no words, as generated names use them.
const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Letters of a generated suffix.
const SUFFIX_LENGTH: usize = 5;
/// A generated name is a DNS label, so the prefix is cut to leave room for the suffix.
const PREFIX_LENGTH: usize = 63 - SUFFIX_LENGTH;

/// RFC 1123 label: lower case letters, digits and `-`, a letter or digit at either end, 63 at most.
pub(super) fn is_label(name: &str) -> bool {
    let bytes = name.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= 63
        && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

/// RFC 1123 subdomain: labels joined with `.`, 253 letters at most.
pub(super) fn is_subdomain(name: &str) -> bool {
    !name.is_empty() && name.len() <= 253 && name.split('.').all(is_label_of_any_length)
}

/// RFC 1035 label: like [`is_label`], and the first is a letter.
pub(super) fn is_service_name(name: &str) -> bool {
    is_label(name) && name.as_bytes()[0].is_ascii_lowercase()
}

/// What may stand in a path: not `.`, not `..`, no `/` or `%`.
pub(super) fn is_path_segment(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '%'])
}

/// `prefix` followed by five random letters.
pub(super) fn generate(prefix: &str) -> String {
    let mut name: String = prefix.chars().take(PREFIX_LENGTH).collect();
    let mut random = rand::rng();
    for _ in 0..SUFFIX_LENGTH {
        name.push(char::from(SUFFIX_LETTERS[random.random_range(0..SUFFIX_LETTERS.len())]));
    }
    name
}

/// A random UUID (version 4), by which an object is told from another of the same name.
pub(super) fn uid() -> u128 {
    let random: u128 = rand::rng().random();
    random & !(0xF << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62)
}

/// A UUID in its usual form.
pub(super) fn format_uid(uid: u128) -> String {
    let hex = format!("{uid:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The number behind [`format_uid`]; anything else is nobody's uid.
pub(super) fn parse_uid(text: &str) -> Option<u128> {
    let uid = u128::from_str_radix(&text.replace('-', ""), 16).ok()?;
    (format_uid(uid) == text).then_some(uid)
}

fn is_label_of_any_length(label: &str) -> bool {
    let bytes = label.as_bytes();
    !bytes.is_empty()
        && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_come_back() {
        let uid = uid();
        let text = format_uid(uid);
        assert_eq!(parse_uid(&text), Some(uid));
        assert_eq!(&text[14..15], "4");
        assert!("89ab".contains(&text[19..20]), "{text}");
        assert_eq!(parse_uid("not-a-uid"), None);
    }

    #[test]
    fn names() {
        let long = "a".repeat(64);
        for (name, label, subdomain, service) in [
            ("web", true, true, true),
            ("web-1", true, true, true),
            ("1web", true, true, false),
            ("web.example", false, true, false),
            ("-web", false, false, false),
            ("web-", false, false, false),
            ("Web", false, false, false),
            ("", false, false, false),
            ("a..b", false, false, false),
            (long.as_str(), false, true, false),
        ] {
            assert_eq!(is_label(name), label, "{name}");
            assert_eq!(is_subdomain(name), subdomain, "{name}");
            assert_eq!(is_service_name(name), service, "{name}");
        }
    }
}
