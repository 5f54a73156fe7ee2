//! Addresses of databases, as command lines and configurations have them.

use crate::mutate;
use zring::store::normal::normalise;
use zring::store::zurl::Zurl;

/// What is read strictly is read loosely as well, and to the same; nothing is refused without a reason.
fn address(input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    let (strict, loose) = (Zurl::parse(&text), Zurl::parse_loosely(&text));
    for refused in [&strict, &loose]
        .into_iter()
        .filter_map(|r| r.as_ref().err())
    {
        assert!(!refused.to_string().is_empty());
    }
    if strict.is_ok() {
        assert_eq!(strict, loose);
    }
    if let Ok(one) = normalise(&text) {
        assert!(one.len() <= 9 * text.len() + 64, "{one}");
    }
    strict.is_ok()
}

#[test]
fn zurl() {
    let inputs = [
        "file:///srv/db/Data.fs",
        "zeo://[::1]:8100?storage=main&wait_timeout=3&cache_size=20MB",
        "zeo:///path/to/socket?storage=%31",
        "zeos://u@db:1?ca=/a&cert=b%20c&key=d&server_hostname=n&check_hostname=0",
        "postgres://u@a:1,[::1],c:2/zodb?password_file=/p&history_free=accept&poll_interval=0.5",
        "postgresql:///zodb?host=/run/pg&user=me&keep_history=true",
        "sqlite://?data_dir=/srv/db",
        "demo:(file:///a)/(zeo://b:1)",
        "neos://ca=1&key=2@cluster@a:1,b:2?read_only=1#x",
    ];
    let inputs = inputs.map(|text| text.as_bytes().to_vec()).to_vec();
    let inputs = mutate::corpus("zurl", inputs);
    let words: [&[u8]; 16] = [
        b"://",
        b"/",
        b"?",
        b"&",
        b"=",
        b"@",
        b":",
        b",",
        b"%",
        b"%2f",
        b"[",
        b"]",
        b"#",
        b"zeo",
        b"password=",
        b"storage=",
    ];
    mutate::run("zurl", &inputs, &words, address);
}
