//! Decoders against input that nobody wrote.
//!
//! Each decoder has a module with one check, run on the files of `corpus/<decoder>/` as they are, and then on
//! what the mutator makes of them (`mutate`), the same inputs for the same seed. A check knows no right answer;
//! it holds what must be true of any: no panic, parts that agree with each other, memory and time in bounds.
//!
//! ```text
//! ZRING_FUZZ=1000000 ZRING_FUZZ_SEED=7 cargo test --release --test fuzz
//! ```
//!
//! An input that fails is printed and kept in the target's tmp folder; put it in the corpus with the fix. Long
//! runs are noted in `RECORD.md`. To add a decoder: a module, a folder of the corpus, a line here.
#![allow(clippy::unwrap_used, reason = "tests")]

mod etag;
mod fs1;
mod fsevent;
mod fuse;
mod mutate;
mod neo;
mod object;
mod pickle;
mod samples;
mod walk;
mod watch;
mod zeo;
mod zurl;
