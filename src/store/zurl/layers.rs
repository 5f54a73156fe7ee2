//! `demo:(BASE)/(CHANGES)#OPTIONS`.

use super::{Zurl, ZurlError, is_others};
use crate::store::demo::Demo;

/// What stands behind `demo:`.
///
/// # Errors
/// There are not two addresses, or one of them names nothing that can be opened.
pub(super) fn read(text: &str, is_strict: bool) -> Result<Zurl, ZurlError> {
    let wrong = || ZurlError::Layers(text.into());
    let (base, rest) = inside(text).ok_or_else(wrong)?;
    let rest = rest.strip_prefix('/').ok_or_else(wrong)?;
    let (changes, rest) = inside(rest).ok_or_else(wrong)?;
    let options = match rest.strip_prefix('#') {
        Some(options) => options,
        None if rest.is_empty() => "",
        None => return Err(wrong()),
    };
    let options = options.split('&').filter(|o| !o.is_empty());
    let mut names = options.map(|option| option.split_once('=').map_or(option, |(name, _)| name));
    match names.find(|name| !is_others(name)) {
        Some(name) if is_strict => return Err(ZurlError::Option(name.into(), "demo")),
        _ => {}
    }
    Ok(Zurl::Demo(Box::new(Demo {
        base: Zurl::read(base, is_strict)?,
        changes: Zurl::read(changes, is_strict)?,
    })))
}

/// What stands between the first parenthesis and the one that closes it, and what follows.
fn inside(text: &str) -> Option<(&str, &str)> {
    let body = text.strip_prefix('(')?;
    let mut depth = 1;
    for (at, c) in body.char_indices() {
        depth += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        if depth == 0 {
            return Some((&body[..at], &body[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn demo(base: Zurl, changes: Zurl) -> Zurl {
        Zurl::Demo(Box::new(Demo { base, changes }))
    }

    #[test]
    fn two_addresses_stand_in_parentheses_which_nest() {
        let (a, b) = (Zurl::File("/a".into()), Zurl::File("/b".into()));
        let zeo = Zurl::parse("zeo://h:1?storage=2").unwrap();
        for (text, right) in [
            ("demo:(file:///a)/(file:///b)", demo(a.clone(), b.clone())),
            (
                "demo:(file:///a)/(zeo://h:1?storage=2)#wait=1&database_name=x",
                demo(a.clone(), zeo.clone()),
            ),
            (
                "Demo:(demo:(file:///a)/(file:///b))/(zeo://h:1?storage=2)",
                demo(demo(a.clone(), b.clone()), zeo),
            ),
        ] {
            assert_eq!(Zurl::parse(text), Ok(right), "{text}");
        }
        let loosely = Zurl::parse_loosely("demo:(file:///a)/(file:///b)#odd=1");
        assert_eq!(loosely, Ok(demo(a, b)));
    }
}
