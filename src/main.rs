//! The binary: allocator, arguments to `cli::run`, exit status; nothing else.

// musl's allocator takes one lock for all threads; a worker's loads must not wait for another worker's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // A worker that unwinds would leave its queues unserved and callers hanging: whatever the profile, a panic ends it all.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
    zring::cli::run(std::env::args_os())
}
