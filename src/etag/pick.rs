//! Which files are looked at: what is excluded, and which share of the fresh ones is read again.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A pattern that is not one.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadGlob(#[from] globset::Error);

/// What is not looked at. A pattern with a slash is of the whole path from the root, any other of the name alone.
#[derive(Clone, Debug, Default)]
pub struct Exclude {
    paths: GlobSet,
    names: GlobSet,
}

impl Exclude {
    /// From the patterns of the command line.
    ///
    /// # Errors
    /// The first that is none.
    pub fn new<S: AsRef<str>>(globs: impl IntoIterator<Item = S>) -> Result<Self, BadGlob> {
        let (mut paths, mut names) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for glob in globs {
            let glob = glob.as_ref();
            let bare = glob.trim_start_matches('/').trim_end_matches('/');
            let built = GlobBuilder::new(bare).literal_separator(true).build()?;
            if glob.trim_end_matches('/').contains('/') {
                paths.add(built);
            } else {
                names.add(built);
            }
        }
        Ok(Self {
            paths: paths.build()?,
            names: names.build()?,
        })
    }

    /// Whether nothing is excluded.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.names.is_empty()
    }

    /// Whether the name in this directory is.
    pub fn has(&self, dir: &[u8], name: &[u8]) -> bool {
        if self.is_empty() {
            return false;
        }
        let as_path = |bytes| Path::new(OsStr::from_bytes(bytes)).to_owned();
        self.names.is_match(as_path(name))
            || !self.paths.is_empty() && self.paths.is_match(as_path(dir).join(as_path(name)))
    }
}

/// Whether this path belongs to the share that is read again, in the pass of this seed.
pub fn in_share(share: f64, seed: u64, dir: &[u8], name: &[u8]) -> bool {
    use std::hash::Hasher as _;
    if share <= 0.0 {
        return false;
    }
    let mut hasher = rustc_hash::FxHasher::default();
    hasher.write_u64(seed);
    hasher.write(dir);
    hasher.write_u8(0);
    hasher.write(name);
    // The generator's last step, as the hash alone spreads badly in its low bits.
    let mut z = hasher.finish();
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^= z >> 31;
    ((z >> 11) as f64) < share * (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn patterns_are_of_names_or_of_paths() {
        let exclude = Exclude::new(["*.tmp", "a/b", "/top", "x/**", "cache/"]).unwrap();
        let has = |path: &str| {
            let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
            exclude.has(dir.as_bytes(), name.as_bytes())
        };
        for path in ["q.tmp", "d/q.tmp", "a/b", "top", "x/y", "x/y/z", "d/cache"] {
            assert!(has(path), "{path}");
        }
        for path in ["q.tmpx", "z/a/b", "d/top", "x", "a/b/c", "b"] {
            assert!(!has(path), "{path}");
        }
        assert!(Exclude::new(["[", "a"]).is_err());
        assert!(!Exclude::default().has(b"", b"x"));
    }

    #[test]
    fn a_share_is_about_as_large_as_it_says() {
        let names: Vec<String> = (0..20_000).map(|i| format!("file {i}")).collect();
        let count = |share, seed| {
            let picked = names
                .iter()
                .filter(|n| in_share(share, seed, b"d", n.as_bytes()));
            picked.count()
        };
        assert_eq!((count(0.0, 1), count(1.0, 1)), (0, 20_000));
        assert!((1800..2200).contains(&count(0.1, 1)));
        let both = names.iter().filter(|n| {
            in_share(0.1, 1, b"d", n.as_bytes()) && in_share(0.1, 2, b"d", n.as_bytes())
        });
        assert!(
            (100..300).contains(&both.count()),
            "another pass, another share"
        );
    }
}
