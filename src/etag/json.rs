//! Objects of JSON, one on a line, as they go out.
//!
//! Integers beyond 2^53 are strings, so that no reader rounds them. A path that is not UTF-8 is given twice: readable, and in Base64.

use std::fmt::Write as _;

/// An object that grows field by field.
#[derive(Debug, Default)]
pub struct Object(String);

impl Object {
    /// An empty one.
    pub fn new() -> Self {
        Self("{".to_owned())
    }

    fn name(&mut self, name: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        let _ = write!(self.0, "\"{name}\":");
    }

    /// A text, or nothing.
    #[must_use]
    pub fn text(mut self, name: &str, value: Option<&str>) -> Self {
        self.name(name);
        match value {
            None => self.0.push_str("null"),
            Some(value) => push_text(&mut self.0, value),
        }
        self
    }

    /// An integer, or nothing.
    #[must_use]
    pub fn int(mut self, name: &str, value: Option<i128>) -> Self {
        self.name(name);
        let _ = match value {
            None => write!(self.0, "null"),
            Some(n) if n.unsigned_abs() > 1 << 53 => write!(self.0, "\"{n}\""),
            Some(n) => write!(self.0, "{n}"),
        };
        self
    }

    /// A number with three digits behind the point.
    #[must_use]
    pub fn float(mut self, name: &str, value: f64) -> Self {
        self.name(name);
        let value = if value.is_finite() { value } else { 0.0 };
        let _ = write!(self.0, "{value:.3}");
        self
    }

    /// Yes or no.
    #[must_use]
    pub fn flag(mut self, name: &str, value: bool) -> Self {
        self.name(name);
        let _ = write!(self.0, "{value}");
        self
    }

    /// An object inside.
    #[must_use]
    pub fn object(mut self, name: &str, value: Self) -> Self {
        self.name(name);
        self.0.push_str(&value.end());
        self
    }

    /// Objects in a row.
    #[must_use]
    pub fn list(mut self, name: &str, values: impl IntoIterator<Item = Self>) -> Self {
        self.name(name);
        let values: Vec<String> = values.into_iter().map(Self::end).collect();
        let _ = write!(self.0, "[{}]", values.join(","));
        self
    }

    /// A path, as `path` and `path_b64`.
    #[must_use]
    pub fn path(self, path: &[u8]) -> Self {
        match std::str::from_utf8(path) {
            Ok(text) => self.text("path", Some(text)).text("path_b64", None),
            Err(_) => self
                .text("path", Some(&String::from_utf8_lossy(path)))
                .text("path_b64", Some(&base64(path))),
        }
    }

    /// Its text.
    pub fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

fn push_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        let _ = match c {
            '"' | '\\' => write!(out, "\\{c}"),
            '\n' => write!(out, "\\n"),
            '\r' => write!(out, "\\r"),
            '\t' => write!(out, "\\t"),
            c if u32::from(c) < 32 || c == '\u{7f}' => write!(out, "\\u{:04x}", u32::from(c)),
            c => write!(out, "{c}"),
        };
    }
    out.push('"');
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * i) & 63) as usize];
            out.push(if i <= group.len() {
                char::from(digit)
            } else {
                '='
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_as_readers_want_them() {
        let text = Object::new()
            .path(b"a\"b\n\x01")
            .int("size", Some(1 << 53))
            .int("mtime_ns", Some((1 << 53) + 1))
            .int("errno", None)
            .flag("imported", false)
            .object("in", Object::new().float("s", 0.25))
            .list("all", [Object::new().flag("a", true), Object::new()])
            .end();
        assert_eq!(
            text,
            r#"{"path":"a\"b\n\u0001","path_b64":null,"size":9007199254740992,"mtime_ns":"9007199254740993","errno":null,"imported":false,"in":{"s":0.250},"all":[{"a":true},{}]}"#
        );
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
    }

    #[test]
    fn bytes_that_are_no_text_are_given_twice() {
        let text = Object::new().path(b"\xffab").end();
        assert_eq!(text, "{\"path\":\"\u{fffd}ab\",\"path_b64\":\"/2Fi\"}");
        let samples: [(&[u8], &str); 4] =
            [(b"", ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v")];
        for (bytes, text) in samples {
            assert_eq!(base64(bytes), text);
        }
    }
}
