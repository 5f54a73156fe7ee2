//! Texts in double quotes, as Go's `%q` writes them: clients and readers of the log look for them.

use std::fmt::Write as _;

/// Bytes in double quotes: what cannot be printed is escaped.
pub fn quoted(bytes: impl AsRef<[u8]>) -> String {
    let mut out = String::from('"');
    for chunk in bytes.as_ref().utf8_chunks() {
        for c in chunk.valid().chars() {
            quote_char(&mut out, c);
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out.push('"');
    out
}

fn quote_char(out: &mut String, c: char) {
    let escape = match c {
        '\x07' => 'a',
        '\x08' => 'b',
        '\x0c' => 'f',
        '\n' => 'n',
        '\r' => 'r',
        '\t' => 't',
        '\x0b' => 'v',
        '"' | '\\' => c,
        ' '..='~' => return out.push(c),
        _ if is_print(c) => return out.push(c),
        _ => {
            let n = u32::from(c);
            let _ = match n {
                0..0x80 => write!(out, "\\x{n:02x}"),
                0x80..0x1_0000 => write!(out, "\\u{n:04x}"),
                _ => write!(out, "\\U{n:08x}"),
            };
            return;
        }
    };
    out.push('\\');
    out.push(escape);
}

/// Whether it shows: a letter, mark, number, sign or symbol, or a blank. What std escapes is just the rest, marks at the beginning of a
/// text aside.
fn is_print(c: char) -> bool {
    let text = ['x', c];
    let text: String = text.iter().collect();
    text.escape_debug().nth(1) == Some(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_as_go_does() {
        let cases: [(&[u8], &str); 7] = [
            (b"a b'c", r#""a b'c""#),
            (b"\"\\\n\t\r\x07\x00\x7f", r#""\"\\\n\t\r\a\x00\x7f""#),
            ("\u{e9}\u{a0}\u{85}".as_bytes(), "\"\u{e9}\\u00a0\\u0085\""),
            // Not seen: a space of no width, a mark of direction, a tag, private use, a line separator, what is not assigned.
            (
                "\u{200b}\u{202e}\u{e0041}\u{e000}\u{2028}\u{378}".as_bytes(),
                r#""\u200b\u202e\U000e0041\ue000\u2028\u0378""#,
            ),
            // Seen: a mark upon a letter, a sign, a picture, what stands for damage.
            (
                "e\u{301}\u{20ac}\u{1f600}\u{fffd}".as_bytes(),
                "\"e\u{301}\u{20ac}\u{1f600}\u{fffd}\"",
            ),
            (b"\xff\xc3(", r#""\xff\xc3(""#),
            (b"", r#""""#),
        ];
        for (bytes, want) in cases {
            assert_eq!(quoted(bytes), want);
        }
    }
}
