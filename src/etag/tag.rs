//! The strong ETag of a file: `"SHA256:<64 hex digits>"`, equal exactly when bytes are.
//!
//! Only digests of SHA-256 have one, and only of files whose state is fresh; nothing here makes a weak tag.

use crate::base::Digest;

/// The tag, quotes included.
pub fn etag(digest: &Digest) -> String {
    format!("\"SHA256:{digest}\"")
}

/// Whether a list of tags, as in the header `If-None-Match`, has this one: `*` has all, and weak tags count by what they hold.
pub fn matches(list: &str, digest: &Digest) -> bool {
    let own = etag(digest);
    list.split(',').map(str::trim).any(|tag| {
        let tag = tag.strip_prefix("W/").unwrap_or(tag);
        let bare = own.trim_matches('"');
        tag == "*" || tag == own || tag == bare
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_found_in_lists() {
        let digest = Digest([0xab; 32]);
        let tag = etag(&digest);
        assert_eq!(tag, format!("\"SHA256:{}\"", "ab".repeat(32)));
        let weak = format!("W/{tag}");
        let among = format!("\"x\" , {tag}");
        for list in ["*", &tag, &weak, &among, tag.trim_matches('"')] {
            assert!(matches(list, &digest), "{list}");
        }
        let other = etag(&Digest([0xac; 32]));
        for list in ["", "\"*\"", &other, &tag.to_uppercase()] {
            assert!(!matches(list, &digest), "{list}");
        }
    }
}
