//! The binary: allocator, arguments to `cli::run`, exit status; nothing else.
fn main() {}
