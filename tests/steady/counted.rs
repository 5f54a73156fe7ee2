//! The allocator of the binary, and how often the workers of a daemon went to it.
//!
//! Counts lie in a page that the daemon shares with who looks at it. Only threads named `zring-w<n>` are counted; the rest of the
//! daemon may allocate as it likes. What frees is not counted: it was allocated, or came from elsewhere.

use std::alloc::{GlobalAlloc, Layout};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::fs::File;
use std::io;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use memmap2::MmapRaw;
use mimalloc::MiMalloc;

/// What the daemon and who looks at it share.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Page {
    /// Allocations of workers so far, those that grow something included.
    pub(crate) allocations: AtomicU64,
    /// So many of the next ones are shown, by where they come from.
    pub(crate) show: AtomicU64,
    /// For so many ms at most the daemon is to hold its locks; 0 when it need not any more.
    pub(crate) hold_ms: AtomicU64,
    /// 1 while it does.
    pub(crate) held: AtomicU64,
}

static PAGE: AtomicPtr<Page> = AtomicPtr::new(ptr::null_mut());

thread_local! {
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
    static IS_SHOWING: Cell<bool> = const { Cell::new(false) };
}

/// Makes the page in a file.
pub(crate) fn create(path: &Path) -> io::Result<()> {
    File::create(path)?.set_len(4096)
}

/// Maps the page of a file, for the time of the process.
#[allow(unsafe_code, reason = "see its SAFETY comment")]
pub(crate) fn map(path: &Path) -> io::Result<&'static Page> {
    let file = File::options().read(true).write(true).open(path)?;
    let at = MmapRaw::map_raw(&file)?;
    let page = at.as_mut_ptr().cast::<Page>();
    std::mem::forget(at);
    // SAFETY: the file has 4096 bytes and keeps them, the mapping is aligned to that and never goes; all of it is atomics.
    Ok(unsafe { &*page })
}

/// From now on workers of this process are counted.
pub(crate) fn begin(page: &'static Page) {
    PAGE.store(ptr::from_ref(page).cast_mut(), Ordering::Release);
}

/// See the module.
pub(crate) struct Counted;

#[allow(unsafe_code, reason = "an allocator; see its SAFETY comments")]
// SAFETY: all is done by another allocator; what is counted meanwhile touches nothing of it.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's.
        unsafe { MiMalloc.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { MiMalloc.dealloc(at, layout) }
    }
}

#[allow(unsafe_code, reason = "see its SAFETY comment")]
fn count() {
    // SAFETY: it is null, or what `map` gave, which never goes.
    let Some(page) = (unsafe { PAGE.load(Ordering::Acquire).as_ref() }) else {
        return;
    };
    if IS_SHOWING.get() || !(IS_WORKER.get() || is_worker()) {
        return;
    }
    IS_WORKER.set(true);
    page.allocations.fetch_add(1, Ordering::SeqCst);
    let one = |left: u64| left.checked_sub(1);
    let order = Ordering::SeqCst;
    if page.show.fetch_update(order, order, one).is_ok() {
        IS_SHOWING.set(true);
        eprintln!("allocated by a worker:\n{}", way());
        IS_SHOWING.set(false);
    }
}

/// The lines of zring's own code that lead here, the last one first.
fn way() -> String {
    let all = Backtrace::force_capture().to_string();
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/src/");
    let lines = all.lines().filter_map(|line| line.split_once(own));
    lines.map(|(_, place)| format!("    {place}\n")).collect()
}

/// Whether this thread is a worker: `zring-w` and its number.
#[allow(unsafe_code, reason = "see its SAFETY comment")]
fn is_worker() -> bool {
    let mut name = [0u8; 16];
    // SAFETY: the call writes at most 16 bytes, a terminating zero included.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    let number = name.strip_prefix(b"zring-w");
    number.is_some_and(|number| number[0].is_ascii_digit())
}
