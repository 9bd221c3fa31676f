//! The users' annotations that lead requests with certain headers or cookies to a revision.
//!
//! The vendor's own examples are no YAML and no JSON: `[{revision:x,headers:{demo:test}}]`. Quotes are optional, a bare
//! value ends at a bracket, a comma or a quote, and a key at the first colon.

use crate::routing::model::{Condition, HeaderValues, KeyValue, Remark, Values};

/// The longest annotation, in bytes.
const MAX_BYTES: usize = 8 << 10;
/// The most entries.
const MAX_ENTRIES: usize = 16;

/// One entry: requests that meet all conditions go to the revision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The revision.
    pub revision: String,
    /// The conditions.
    pub conditions: Vec<Condition>,
}

/// Which of the two annotations is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// By header.
    Headers,
    /// By cookie.
    Cookies,
}

/// Reads an annotation.
pub fn parse(text: &str, kind: Kind) -> Result<Vec<Entry>, Remark> {
    if text.len() > MAX_BYTES {
        let message = format!("the annotation has {} bytes; at most {MAX_BYTES} are taken", text.len());
        return Err(Remark::new("CanaryAnnotationTooLarge", message));
    }
    let mut reader = Reader { text, at: 0 };
    let mut entries = Vec::new();
    reader.blank();
    if reader.eat('[') {
        while !reader.eat(']') {
            entries.push(reader.entry(kind)?);
            if !reader.eat(',') && !reader.sees(']') {
                return Err(reader.wrong("expected ',' or ']'"));
            }
        }
    } else {
        entries.push(reader.entry(kind)?);
    }
    if reader.at < text.len() {
        return Err(reader.wrong("there is more after the end"));
    }
    if entries.is_empty() {
        return Err(reader.wrong("there is no entry in it"));
    }
    if entries.len() > MAX_ENTRIES {
        let message = format!("the annotation has {} entries; at most {MAX_ENTRIES} are taken", entries.len());
        return Err(Remark::new("CanaryAnnotationTooLarge", message));
    }
    Ok(entries)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn blank(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn sees(&self, letter: char) -> bool {
        self.rest().starts_with(letter)
    }

    /// Takes `letter` and the blanks after it.
    fn eat(&mut self, letter: char) -> bool {
        let seen = self.sees(letter);
        if seen {
            self.at += letter.len_utf8();
            self.blank();
        }
        seen
    }

    fn expect(&mut self, letter: char) -> Result<(), Remark> {
        if self.eat(letter) { Ok(()) } else { Err(self.wrong(&format!("expected {letter:?}"))) }
    }

    fn wrong(&self, what: &str) -> Remark {
        let near: String = self.rest().chars().take(20).collect();
        Remark::new("InvalidCanaryAnnotation", format!("{what} at byte {}, before {near:?}", self.at))
    }

    fn entry(&mut self, kind: Kind) -> Result<Entry, Remark> {
        let start = self.at;
        self.expect('{')?;
        let (mut revision, mut conditions) = (None, None);
        while !self.eat('}') {
            let at = self.at;
            let key = self.scalar(true)?;
            self.expect(':')?;
            let twice = match (key.as_str(), kind) {
                ("revision" | "revisionName", _) => revision.replace(self.scalar(false)?).is_some(),
                ("headers" | "header", Kind::Headers) | ("cookies" | "cookie", Kind::Cookies) => {
                    conditions.replace(self.map(kind)?).is_some()
                }
                _ => {
                    self.at = at;
                    let known = if kind == Kind::Headers { "headers" } else { "cookies" };
                    return Err(self.wrong(&format!("unknown key {key:?}; known are revision and {known}")));
                }
            };
            if twice {
                self.at = at;
                return Err(self.wrong(&format!("{key:?} stands twice")));
            }
            if !self.eat(',') && !self.sees('}') {
                return Err(self.wrong("expected ',' or '}'"));
            }
        }
        match (revision, conditions) {
            (Some(revision), Some(conditions)) if !revision.is_empty() => Ok(Entry { revision, conditions }),
            _ => {
                self.at = start;
                Err(self.wrong("an entry needs a revision, and headers or cookies"))
            }
        }
    }

    fn map(&mut self, kind: Kind) -> Result<Vec<Condition>, Remark> {
        let start = self.at;
        let mut keys: Vec<String> = Vec::new();
        let mut conditions = Vec::new();
        self.expect('{')?;
        while !self.eat('}') {
            let at = self.at;
            let key = self.scalar(true)?;
            self.expect(':')?;
            let spelled = if kind == Kind::Headers { key.to_ascii_lowercase() } else { key.clone() };
            if keys.contains(&spelled) {
                self.at = at;
                return Err(self.wrong(&format!("{key:?} stands twice")));
            }
            keys.push(spelled);
            let values = if kind == Kind::Headers && self.sees('[') { self.list()? } else { vec![self.scalar(false)?] };
            conditions.push(match kind {
                Kind::Headers => header(key, values)?,
                Kind::Cookies => cookie(key, &values[0])?,
            });
            if !self.eat(',') && !self.sees('}') {
                return Err(self.wrong("expected ',' or '}'"));
            }
        }
        if conditions.is_empty() {
            self.at = start;
            return Err(self.wrong("nothing to match"));
        }
        Ok(conditions)
    }

    fn list(&mut self) -> Result<Vec<String>, Remark> {
        let mut values = Vec::new();
        self.expect('[')?;
        while !self.eat(']') {
            values.push(self.scalar(false)?);
            if !self.eat(',') && !self.sees(']') {
                return Err(self.wrong("expected ',' or ']'"));
            }
        }
        if values.is_empty() { Err(self.wrong("an empty list")) } else { Ok(values) }
    }

    /// A quoted or a bare text; a key ends at a colon.
    fn scalar(&mut self, key: bool) -> Result<String, Remark> {
        let value = if self.sees('"') {
            let mut stream = serde_json::Deserializer::from_str(self.rest()).into_iter::<String>();
            let Some(Ok(value)) = stream.next() else {
                return Err(self.wrong("not a JSON string"));
            };
            let length = stream.byte_offset();
            self.at += length;
            value
        } else if self.sees('\'') {
            let Some(length) = self.rest()[1..].find('\'') else { return Err(self.wrong("the quote is not closed")) };
            let value = self.rest()[1..=length].to_owned();
            self.at += length + 2;
            value
        } else {
            let ends = |letter: char| "{}[],\"'".contains(letter) || (key && letter == ':');
            let length = self.rest().find(ends).unwrap_or(self.rest().len());
            let value = self.rest()[..length].trim().to_owned();
            if value.is_empty() {
                return Err(self.wrong("a text is missing"));
            }
            self.at += length;
            value
        };
        self.blank();
        Ok(value)
    }
}

fn header(key: String, values: Vec<String>) -> Result<Condition, Remark> {
    if ["host", "cookie", "knative-serving-tag"].contains(&key.to_ascii_lowercase().as_str()) {
        return Err(Remark::new("ReservedCanaryHeader", format!("the header {key:?} cannot be used here")));
    }
    if !is_header_key(&key) {
        let message = format!("{key:?} is not a header: 1 to 40 letters, digits, '-' and '_'");
        return Err(Remark::new("InvalidCanaryHeader", message));
    }
    if let Some(value) = values.iter().find(|value| !is_header_value(value)) {
        let message = format!("{value:?} is not a value of {key:?}: 1 to 128 printable characters, no blank at an end");
        return Err(Remark::new("InvalidCanaryHeader", message));
    }
    Ok(Condition::Header { config: HeaderValues { key, values } })
}

fn cookie(key: String, value: &str) -> Result<Condition, Remark> {
    let good = |text: &str, most: usize| {
        (1..=most).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"[]{}<>\\#|&;".contains(&byte))
    };
    if !good(&key, 100) || !good(value, 128) {
        let message = format!(
            "{key:?}={value:?} is not a cookie: 1 to 100 and 1 to 128 printable characters without blanks and []{{}}<>\\#|&;"
        );
        return Err(Remark::new("InvalidCanaryCookie", message));
    }
    // The load balancer keeps lower case and compares without regard to case.
    Ok(Condition::Cookie { config: Values { values: vec![KeyValue { key, value: value.to_ascii_lowercase() }] } })
}

/// Whether the load balancer takes a header of this name.
pub(super) fn is_header_key(key: &str) -> bool {
    (1..=40).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// Whether the load balancer takes this as a value.
pub(super) fn is_header_value(value: &str) -> bool {
    (1..=128).contains(&value.len())
        && value.trim() == value
        && value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_spelling_is_understood() {
        let wanted = vec![Entry {
            revision: "x-2".to_owned(),
            conditions: vec![header("demo".to_owned(), vec!["test".to_owned()]).expect("a header")],
        }];
        for text in [
            "[{revision:x-2,headers:{demo:test}}]",
            "{revision: x-2, headers: {demo: test}}",
            r#"[{"revision":"x-2","headers":{"demo":"test"}}]"#,
            " [ { revisionName : 'x-2' , header : { demo : \"test\" , } , } , ] ",
            "[{headers:{demo:[test]},revision:x-2}]",
        ] {
            assert_eq!(parse(text, Kind::Headers).as_ref(), Ok(&wanted), "{text}");
        }
        let two = parse("[{revision:a,headers:{at:12:30,n:[a:b,c]}},{revision:b,headers:{k:1}}]", Kind::Headers)
            .expect("two");
        assert_eq!(two.iter().map(|entry| entry.conditions.len()).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(two[0].conditions[1].entries(), 2);
        let cookies = parse("[{revision:a,cookies:{Demo:Always,cookie2:v2}}]", Kind::Cookies).expect("cookies");
        assert_eq!(cookies[0].conditions[0], cookie("Demo".to_owned(), "always").expect("a cookie"));
    }

    #[test]
    fn every_fault_has_its_reason() {
        let long = format!("[{}]", "{revision:a,headers:{k:v}},".repeat(17));
        for (text, kind, reason) in [
            ("", Kind::Headers, "InvalidCanaryAnnotation"),
            ("[]", Kind::Headers, "InvalidCanaryAnnotation"),
            ("[{revision:a}]", Kind::Headers, "InvalidCanaryAnnotation"),
            ("[{revision:a,headers:{}}]", Kind::Headers, "InvalidCanaryAnnotation"),
            ("[{revision:a,headers:{k:v,K:w}}]", Kind::Headers, "InvalidCanaryAnnotation"),
            ("[{revision:a,cookies:{k:v}}]", Kind::Headers, "InvalidCanaryAnnotation"),
            ("[{revision:a,headers:{k:v}}", Kind::Headers, "InvalidCanaryAnnotation"),
            ("[{revision:a,headers:{k:v}}]x", Kind::Headers, "InvalidCanaryAnnotation"),
            ("[{revision:a,headers:{k:'v}}]", Kind::Headers, "InvalidCanaryAnnotation"),
            ("[{revision:a,headers:{Host:v}}]", Kind::Headers, "ReservedCanaryHeader"),
            ("[{revision:a,headers:{k v:v}}]", Kind::Headers, "InvalidCanaryHeader"),
            ("[{revision:a,cookies:{k:a&b}}]", Kind::Cookies, "InvalidCanaryCookie"),
            ("[{revision:a,cookies:{k:[a,b]}}]", Kind::Cookies, "InvalidCanaryAnnotation"),
            (&long, Kind::Headers, "CanaryAnnotationTooLarge"),
        ] {
            assert_eq!(parse(text, kind).map_err(|remark| remark.reason), Err(reason), "{text}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(text in "[a-zé:{}\\[\\],\"' \\\\]{0,60}") {
            let _ = parse(&text, Kind::Headers);
            let _ = parse(&format!("[{{revision:a,cookies:{{{text}}}}}]"), Kind::Cookies);
        }
    }
}
