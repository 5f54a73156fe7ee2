//! The daemon: as `zring mount -f` makes it, with workers that are counted, and locks that are held when asked for.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use zring::base::limit;
use zring::engine::control::OnEpoch;
use zring::engine::daemon::{self, Ending, Options};
use zring::engine::log::{Log, Style};
use zring::engine::shared::Shared;
use zring::engine::start::Choice;
use zring::fs::attr::Access;
use zring::iso::Rules;
use zring::kernel::mount::MountFlags;
use zring::kernel::port::TransportKind;
use zring::store::zurl::Zurl;

use crate::counted::{self, Page};

/// Serves until it is unmounted.
pub(crate) fn serve(page: &'static Page, transport: &str, zurl: &str, at: &Path) {
    let kinds = [
        TransportKind::Uring,
        TransportKind::Dev,
        TransportKind::Plain,
    ];
    let kind = kinds.into_iter().find(|kind| kind.name() == transport);
    let options = Options {
        zurl: zurl.to_owned(),
        database: Zurl::parse(zurl).unwrap(),
        mountpoint: at.to_owned(),
        transport: Choice::Force(kind.unwrap()),
        max_record: limit::RECORD_BYTES_MAX,
        rules: Rules::new(Duration::from_secs(30)),
        read_ahead_kb: None,
        pollers: limit::POLLERS,
        access: Access::Owner,
        group: None,
        flags: MountFlags::default(),
        debug: false,
        on_epoch: OnEpoch::File,
        subtype: "zring",
        trace: false,
        ending: Ending::Orderly,
    };
    options.ending.block_signals().unwrap();
    let log = Log::start(Style::Plain).unwrap();
    counted::begin(page);
    let ready = |_, shared: &Arc<Shared>| {
        let shared = Arc::clone(shared);
        spawn(move || hold(page, &shared));
    };
    daemon::run(&options, &log, &mut |_, _| {}, ready).unwrap();
}

/// Holds all locks whenever asked to, never for longer than it was asked: whoever waits for one goes on then.
fn hold(page: &Page, shared: &Shared) -> ! {
    loop {
        let limit = page.hold_ms.load(Ordering::SeqCst);
        if limit > 0 {
            let (held, began) = (shared.hold(), Instant::now());
            page.held.store(1, Ordering::SeqCst);
            let limit = Duration::from_millis(limit);
            while page.hold_ms.load(Ordering::SeqCst) > 0 && began.elapsed() < limit {
                sleep(Duration::from_millis(1));
            }
            page.hold_ms.store(0, Ordering::SeqCst);
            page.held.store(0, Ordering::SeqCst);
            drop(held);
        }
        sleep(Duration::from_millis(1));
    }
}
