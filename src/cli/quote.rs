//! Texts in double quotes, as Go's `%q` writes them: readers of the log look for them.

use std::fmt::Write;

/// `text` in double quotes: what cannot be printed is escaped.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        let _ = match c {
            '"' | '\\' => write!(out, "\\{c}"),
            '\n' => write!(out, "\\n"),
            '\t' => write!(out, "\\t"),
            '\r' => write!(out, "\\r"),
            '\u{7}' => write!(out, "\\a"),
            '\u{8}' => write!(out, "\\b"),
            '\u{b}' => write!(out, "\\v"),
            '\u{c}' => write!(out, "\\f"),
            ' ' => write!(out, " "),
            c if c.is_ascii_control() => write!(out, "\\x{:02x}", u32::from(c)),
            c if c.is_control() || c.is_whitespace() => write!(out, "\\u{:04x}", u32::from(c)),
            c => write!(out, "{c}"),
        };
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_printed_is_escaped() {
        assert_eq!(quoted("file:///a b"), "\"file:///a b\"");
        assert_eq!(
            quoted("a\"b\\c\n\t\u{1}\u{7f}\u{85}\u{e9}"),
            "\"a\\\"b\\\\c\\n\\t\\x01\\x7f\\u0085\u{e9}\""
        );
    }
}
