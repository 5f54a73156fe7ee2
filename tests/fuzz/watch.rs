//! What clients write to `head/watch`.

use crate::mutate;
use zring::base::limit::WATCH_LINE_BYTES_MAX;
use zring::wire::quote::quoted;
use zring::wire::watch::{
    FrameError, Lines, Message, Request, Stream, TEXT_BYTES_MAX, frame, request,
};

/// What comes of bytes that arrive in pieces of a size that is drawn from them.
fn lines(input: &[u8], piece: usize) -> (Vec<Vec<u8>>, Result<(), FrameError>) {
    let (mut lines, mut found) = (Lines::default(), Vec::new());
    let mut each = |line: &[u8]| {
        found.push(line.to_vec());
        true
    };
    let mut parts = input.chunks(piece.max(1));
    let all = parts.try_for_each(|part| lines.add(part, &mut each));
    (found, all)
}

/// However bytes are cut, the same lines come of them; what is said about a line is one short line.
fn written(input: &[u8]) -> bool {
    let (found, all) = lines(input, input.len());
    let odd = 1 + input.iter().map(|&b| usize::from(b)).sum::<usize>() % 97;
    assert_eq!(lines(input, odd), (found.clone(), all.clone()));
    let joined = found.concat();
    assert!(input.starts_with(&joined));
    if all.is_ok() {
        assert!(!input[joined.len()..].contains(&b'\n'));
    }
    let mut is_sound = all.is_ok() && !found.is_empty();
    for line in &found {
        assert!(line.len() <= WATCH_LINE_BYTES_MAX && line.ends_with(b"\n"));
        assert_eq!(line.iter().filter(|&&c| c == b'\n').count(), 1);
        is_sound &= one(line);
    }
    is_sound
}

fn one(line: &[u8]) -> bool {
    let is_one_line = |stream: Stream, message: Message| {
        let line = String::from_utf8(message.line(stream)).unwrap();
        assert!(line.len() <= TEXT_BYTES_MAX + stream.0.to_string().len() + 2);
        assert!(line.ends_with('\n') && line.matches('\n').count() == 1);
    };
    let quote = quoted(line);
    assert!(quote.starts_with('"') && quote.ends_with('"') && !quote.contains(char::is_control));
    let (stream, message) = match frame(line) {
        Ok(frame) => frame,
        Err(error) => {
            is_one_line(Stream::CONTROL, Message::Broken(error.to_string()));
            return false;
        }
    };
    assert_eq!(stream.is_clients(), stream.next().is_clients());
    assert!(line.ends_with(&[message, b"\n"].concat()));
    match request(message) {
        Ok(Request::Bye) => assert_eq!(message, b"bye"),
        Ok(read @ Request::Watch { oid, at, size }) => {
            let at = at.map_or("-".to_owned(), |tid| format!("@{tid}"));
            let again = format!("watch {oid} {at}{}", if size { " +size" } else { "" });
            assert_eq!(request(again.as_bytes()), Ok(read));
            assert!(message.eq_ignore_ascii_case(again.as_bytes()));
        }
        Err(error) => {
            is_one_line(stream, Message::Error(format!("bad watch: {error}")));
            return false;
        }
    }
    true
}

#[test]
fn watch() {
    let session =
        b"1 watch 0000000000000010 @0404bfc5fd8b75ee\n2 ack\n3 watch 0000000000000010 -\n5 bye\n";
    let sized = b"18446744073709551615 watch ffffffffffffffff @ffffffffffffffff +size\n";
    let texts = "1 nothing \"\u{e9}\u{200b}\\\n0 x\n".as_bytes();
    let long = [&b"1 "[..], &[b'x'; WATCH_LINE_BYTES_MAX - 3], b"\n"].concat();
    let inputs = vec![session.to_vec(), sized.to_vec(), texts.to_vec(), long];
    let inputs = mutate::corpus("watch", inputs);
    let words: [&[u8]; 9] = [
        b"\n",
        b" ",
        b"watch ",
        b"bye",
        b"ack",
        b"@",
        b"-",
        b" +size",
        b"\xe2\x80",
    ];
    mutate::run("watch", &inputs, &words, written);
}
