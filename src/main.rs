//! The binary: allocator, arguments to `cli::run`, exit status; nothing else.

// musl's allocator takes one lock for all threads; a worker's loads must not wait for another worker's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    zring::cli::run(std::env::args_os())
}
