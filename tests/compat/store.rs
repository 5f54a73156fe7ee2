//! What every kind of store has to do, asked of each of them with the same words: a file, a ZEO server in both encodings, and
//! RelStorage in PostgreSQL and in SQLite.
//!
//! 1. It is as of the last transaction, and answers as ZODB does for each object at each tid: undone, deleted, not yet stored.
//! 2. While somebody writes, each transaction is told once, in order, with just its objects, and its view shows it.
//! 3. A pack while it serves changes no answer: an old state is the same bytes, or no object.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]
#![allow(
    clippy::disallowed_methods,
    reason = "tests wait, watch the clock and start processes"
)]

mod cluster;
mod layers;
#[path = "../neo/mod.rs"]
mod neo;
mod oracle;
mod postgres;

use oracle::{Answers, Dir, Dump, command, make, python, run};
use postgres::{DATABASE, Postgres};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use zring::base::limit::RECORD_BYTES_MAX;
use zring::base::{Oid, Tid};
use zring::store::any::{AnyStore, AnyView};
use zring::store::file::{FileOpts, FileStore};
use zring::store::remote::{Health, RemoteStore};
use zring::store::zeo;
use zring::store::zurl::Zurl;
use zring::store::{Event, Store, View};

/// A database of one kind, served by what the test started.
trait Bed {
    type Store: Store<View: Answers>;
    /// Where writers write.
    fn target(&self) -> String;
    /// The file below it all.
    fn file(&self) -> String;
    /// What ZODB says of it now.
    fn dump(&self, python: &str) -> Dump {
        Dump::new(python, &self.file())
    }
    fn open(&self) -> Self::Store;
    /// Packs to now.
    fn pack(&self, python: &str);
}

/// A file, and nobody else.
struct File {
    dir: Dir,
}

impl Bed for File {
    type Store = FileStore;

    fn target(&self) -> String {
        self.file()
    }

    fn file(&self) -> String {
        self.dir.file("Data.fs")
    }

    fn open(&self) -> FileStore {
        let path = self.file();
        let opened = FileStore::open(Path::new(&path), &FileOpts::default(), &mut |_, _| {});
        opened.unwrap().0
    }

    fn pack(&self, python: &str) {
        oracle::oracle(python, &["pack", &self.file()]);
    }
}

/// A ZEO server.
struct Zeo {
    dir: Dir,
    port: u16,
    server: Child,
}

impl Zeo {
    fn start(python: &str, dir: Dir, msgpack: bool) -> Self {
        Self::start_with(python, dir, msgpack, "")
    }

    /// The same with a further section for its `<zeo>`.
    fn start_with(python: &str, dir: Dir, msgpack: bool, section: &str) -> Self {
        let port = crate::neo::free_port();
        let (conf, file) = (dir.file("zeo.conf"), dir.file("Data.fs"));
        let text = format!(
            "<zeo>\n address 127.0.0.1:{port}\n msgpack {msgpack}\n{section}</zeo>\n<filestorage main>\n path {file}\n</filestorage>\n"
        );
        std::fs::write(&conf, text).unwrap();
        let mut command = Command::new(python);
        command.args(["-m", "ZEO.runzeo", "-C", &conf]);
        let server = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let this = Self {
            dir,
            port,
            server: server.unwrap(),
        };
        let give_up = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(Instant::now() < give_up, "the server does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        this
    }
}

impl Drop for Zeo {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

const PACK: &str = "\
import sys, time, ZEO
c = ZEO.client((sys.argv[1], int(sys.argv[2])), storage='main')
c.pack(time.time(), wait=True)
c.close()";

impl Bed for Zeo {
    type Store = RemoteStore;

    fn target(&self) -> String {
        format!("zeo://127.0.0.1:{}?storage=main", self.port)
    }

    fn file(&self) -> String {
        self.dir.file("Data.fs")
    }

    fn open(&self) -> RemoteStore {
        opened_remote(&self.target())
    }

    fn pack(&self, python: &str) {
        let port = self.port.to_string();
        let mut command = Command::new(python);
        command.args(["-c", PACK, "127.0.0.1", &port]);
        assert!(command.status().unwrap().success(), "the pack failed");
    }
}

/// A database of RelStorage, made of a file.
struct Rel {
    dir: Dir,
    /// Of PostgreSQL.
    server: Option<Postgres>,
}

impl Rel {
    /// With what stands in the file of `dir`.
    fn new(python: &str, dir: Dir, server: Option<Postgres>) -> Self {
        let this = Self { dir, server };
        let (file, target) = (this.dir.file("Data.fs"), this.target());
        run(python, RELSTORAGE, &["copy", &file, &target]);
        this
    }

    fn zurl(&self) -> String {
        match &self.server {
            Some(server) => server.zurl(DATABASE),
            None => format!("sqlite://{}", self.dir.file("sqlite")),
        }
    }
}

const RELSTORAGE: &str = "compat/relational.py";

/// What an address of anything but a file names.
fn opened_remote(zurl: &str) -> RemoteStore {
    let zurl = Zurl::parse(zurl).unwrap();
    match AnyStore::open(&zurl, RECORD_BYTES_MAX, None, &mut |_, _| {}) {
        Ok((AnyStore::Remote(store), _)) => store,
        other => panic!("{other:?}"),
    }
}

impl Bed for Rel {
    type Store = RemoteStore;

    fn target(&self) -> String {
        match &self.server {
            Some(server) => server.target(DATABASE),
            None => format!("relsqlite:{}", self.dir.file("sqlite")),
        }
    }

    fn file(&self) -> String {
        self.dir.file("Data.fs")
    }

    /// RelStorage forgets the past of what is deleted, a file with the same transactions does not.
    fn dump(&self, python: &str) -> Dump {
        let copy = self.dir.file("copy.fs");
        run(python, RELSTORAGE, &["copy", &self.target(), &copy]);
        Dump::new(python, &copy)
    }

    fn open(&self) -> RemoteStore {
        opened_remote(&self.zurl())
    }

    fn pack(&self, python: &str) {
        run(python, RELSTORAGE, &["pack", &self.target()]);
    }
}

/// Follows a store until it shows `last`; gives its commits.
fn follow<S: Store>(store: &mut S, last: Tid) -> Vec<(Tid, Vec<Oid>, S::View)> {
    let mut seen: Vec<(Tid, Vec<Oid>, S::View)> = Vec::new();
    let mut at = store.view().at();
    let give_up = Instant::now() + Duration::from_secs(30);
    while at < last {
        assert!(Instant::now() < give_up, "it stays at {at}, not {last}");
        for event in store.follow().unwrap() {
            match event {
                Event::Commit(commit) => {
                    assert!(commit.tid > at, "{} after {at}", commit.tid);
                    assert_eq!(commit.view.at(), commit.tid);
                    at = commit.tid;
                    seen.push((commit.tid, commit.oids.to_vec(), commit.view));
                }
                Event::Switched(view) => assert_eq!(view.at(), at),
                Event::Reset(view) => panic!("reset at {}", view.at()),
            }
        }
        assert_eq!(store.view().at(), at);
        std::thread::sleep(Duration::from_millis(2));
    }
    seen
}

/// What was told is what is in the database after `at`.
fn same_history<V>(seen: &[(Tid, Vec<Oid>, V)], dump: &Dump, at: Tid) {
    let sorted = |oids: &[Oid]| oids.iter().copied().collect::<BTreeSet<_>>();
    let seen: Vec<_> = seen
        .iter()
        .map(|(tid, oids, _)| (*tid, sorted(oids)))
        .collect();
    let newer = dump.txns.iter().filter(|txn| txn.0 > at);
    let right: Vec<_> = newer.map(|(tid, oids)| (*tid, sorted(oids))).collect();
    assert_eq!(seen, right);
}

fn write(python: &str, bed: &impl Bed, log: &str, seed: &str) {
    let target = bed.target();
    let args = [
        "live",
        "--target",
        &target,
        "--log",
        log,
        "--seed",
        seed,
        "--interval",
        "2",
        "--count",
        "40",
        "--undo",
        ".2",
        "--w-delrange",
        "3",
    ];
    let mut writer = command(python, "tools/make_zodb.py", &args);
    assert!(writer.stdout(Stdio::null()).status().unwrap().success());
}

/// A file with a history of everything that can happen to an object.
fn database(python: &str) -> Dir {
    let dir = Dir::new();
    let (path, manifest) = (dir.file("Data.fs"), dir.file("m.json"));
    let args = [
        "gen",
        "--target",
        &path,
        "--manifest",
        &manifest,
        "--blocks",
        "20",
        "--txns",
        "40",
        "--blksize",
        "8k",
        "--seed",
        "7",
        "--undo",
        ".3",
        "--delete-file",
    ];
    make(python, &args);
    dir
}

/// What holds while somebody writes by `write`; gives the store and what ZODB says at the end.
fn conforms_live<B: Bed>(python: &str, bed: &B, write: impl Fn(&str)) -> (B::Store, Dump) {
    let mut store = bed.open();
    let begun = store.view();
    let dump = bed.dump(python);
    assert_eq!(begun.at(), dump.txns.last().unwrap().0);
    let questions = dump.check(&begun);
    assert!(questions > 1000, "{questions}");

    write("1");
    let dump = bed.dump(python);
    let seen = follow(&mut store, dump.txns.last().unwrap().0);
    assert!(seen.len() >= 12);
    same_history(&seen, &dump, begun.at());
    for (_, _, view) in seen.iter().step_by(seen.len() / 3).chain(seen.last()) {
        dump.check(view);
    }
    // What was asked before is answered as before.
    dump.check(&begun);
    (store, dump)
}

fn conforms(python: &str, bed: &impl Bed) {
    let write = |seed: &str| {
        let log = bed.file().replace("Data.fs", &format!("{seed}.jsonl"));
        write(python, bed, &log, seed);
    };
    let (store, dump) = conforms_live(python, bed, write);
    conforms_packed(python, bed, (store, dump), write);
}

/// What holds when a database is packed that was followed so far.
fn conforms_packed<B: Bed>(
    python: &str,
    bed: &B,
    (mut store, dump): (B::Store, Dump),
    write: impl Fn(&str),
) {
    bed.pack(python);
    let packed = dump.txns.last().unwrap().0;
    write("2");
    let after = bed.dump(python);
    let seen = follow(&mut store, after.txns.last().unwrap().0);
    same_history(&seen, &after, packed);
    let view = store.view();
    after.check(&view);
    let mut kept = 0;
    for ((oid, at), says) in view.answers(dump.loads.keys().copied().collect()) {
        let said = &dump.loads[&(oid, at)];
        kept += usize::from(says.len() > 4 && &says == said);
        assert!(
            says == "gone" || says == "none" || &says == said,
            "{oid} at {at}: {says}, was {said}"
        );
    }
    assert!(kept > 100, "{kept}");
}

#[test]
fn a_file_conforms() {
    let Some(python) = python() else { return };
    let dir = database(&python);
    conforms(&python, &File { dir });
}

#[test]
fn a_zeo_server_conforms() {
    let Some(python) = python() else { return };
    for msgpack in [false, true] {
        let dir = database(&python);
        conforms(&python, &Zeo::start(&python, dir, msgpack));
    }
}

#[test]
fn relstorage_in_postgresql_conforms() {
    let Some(python) = python() else { return };
    let dir = database(&python);
    let Some(server) = Postgres::start(Path::new(&dir.file("pg"))) else {
        return;
    };
    conforms(&python, &Rel::new(&python, dir, Some(server)));
}

#[test]
fn relstorage_in_sqlite_conforms() {
    let Some(python) = python() else { return };
    let dir = database(&python);
    conforms(&python, &Rel::new(&python, dir, None));
}

/// Hundreds of loads at once give what loads one by one do, and in much less time than one waits.
#[test]
fn many_loads_at_once_are_right() {
    let Some(python) = python() else { return };
    let dir = database(&python);
    let zeo = Zeo::start(&python, dir, true);
    let dump = Dump::new(&python, &zeo.file());
    let zurl = Zurl::parse(&zeo.target()).unwrap();
    let (store, view) = AnyStore::open(&zurl, RECORD_BYTES_MAX, None, &mut |_, _| {}).unwrap();
    let AnyView::Remote(view) = view else {
        unreachable!()
    };
    let wanted: BTreeMap<(Oid, Tid), &String> = dump.loads.iter().map(|(k, v)| (*k, v)).collect();
    let keys = wanted.keys().copied();
    let all = view.load_many(keys);
    assert_eq!(all.len(), wanted.len());
    for (oid, at, loaded) in all {
        let said = wanted[&(oid, at)];
        match loaded {
            Ok(loaded) => assert!(
                said.starts_with(&loaded.serial.to_string()),
                "{oid} at {at}"
            ),
            Err(_) => assert!(said == "none" || said == "gone", "{oid} at {at}"),
        }
    }
    assert_eq!(view.link().health(), Health::Serving);
    // A closed way answers at once.
    view.link().close();
    let began = Instant::now();
    assert!(view.load(Oid(0), view.at()).is_err());
    assert!(began.elapsed() < Duration::from_secs(5));
    drop(store);
}

/// A certificate and its key in files, and what signs others with them.
struct Certificate {
    cert: String,
    key: String,
    params: rcgen::CertificateParams,
    pair: rcgen::KeyPair,
}

impl Certificate {
    /// Of `name`, signed by `issuer` or by itself.
    fn make(dir: &Dir, name: &str, issuer: Option<&Self>) -> Self {
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        if name == "ca" {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        let pair = rcgen::KeyPair::generate().unwrap();
        let made = match issuer {
            None => params.self_signed(&pair).unwrap(),
            Some(issuer) => {
                let by = rcgen::Issuer::from_params(&issuer.params, &issuer.pair);
                params.signed_by(&pair, &by).unwrap()
            }
        };
        let (cert, key) = (
            dir.file(&format!("{name}.pem")),
            dir.file(&format!("{name}.key")),
        );
        std::fs::write(&cert, made.pem()).unwrap();
        std::fs::write(&key, pair.serialize_pem()).unwrap();
        mode(&key, 0o600);
        Self {
            cert,
            key,
            params,
            pair,
        }
    }
}

fn mode(path: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A server that shows a certificate and asks for one: what both trust serves, and nothing else does.
#[test]
fn a_zeo_server_by_tls_conforms() {
    let Some(python) = python() else { return };
    let dir = database(&python);
    let dump = Dump::new(&python, &dir.file("Data.fs"));
    let files = Dir::new();
    let ca = Certificate::make(&files, "ca", None);
    let stranger = Certificate::make(&files, "stranger", None);
    let reader = Certificate::make(&files, "reader", None);
    for (name, issuer) in [("localhost", None), ("db.example", Some(&ca))] {
        let server = Certificate::make(&files, name, issuer);
        let section = format!(
            " <ssl>\n  certificate {}\n  key {}\n  authenticate {}\n </ssl>\n",
            server.cert, server.key, reader.cert
        );
        let copy = Dir::new();
        std::fs::copy(dir.file("Data.fs"), copy.file("Data.fs")).unwrap();
        let zeo = Zeo::start_with(&python, copy, true, &section);
        let trust = if issuer.is_some() { &ca } else { &server };
        let open = |ca: &Certificate, own: &Certificate, more: &str| {
            let zurl = format!(
                "zeos://localhost:{}?storage=main&ca={}&cert={}&key={}{more}",
                zeo.port, ca.cert, own.cert, own.key
            );
            let Zurl::Zeo(server) = Zurl::parse(&zurl).unwrap() else {
                unreachable!()
            };
            let opened = zeo::open(&server, RECORD_BYTES_MAX, None);
            opened
                .map(|(_, view)| view)
                .map_err(|error| error.to_string())
        };
        let more = if issuer.is_some() {
            "&server_hostname=db.example"
        } else {
            ""
        };
        let view = open(trust, &reader, more).unwrap();
        assert!(dump.check(&view) > 1000);
        let keys: Vec<_> = dump.loads.keys().copied().collect();
        assert_eq!(view.load_many(keys).len(), dump.loads.len());
        let refused = |opened: Result<_, String>, says: &str| {
            let error: String = opened
                .map(|_: zring::store::remote::RemoteView| ())
                .unwrap_err();
            assert!(error.contains(says), "{name}: {error}");
        };
        refused(open(&stranger, &reader, more), "invalid peer certificate");
        refused(
            open(trust, &stranger, more),
            "may not accept our certificate",
        );
        if issuer.is_some() {
            refused(open(trust, &reader, ""), "not valid for name");
            assert!(open(trust, &reader, "&check_hostname=0").is_ok());
            refused(
                open(&stranger, &reader, "&check_hostname=0"),
                "invalid peer certificate",
            );
        }
        mode(&reader.key, 0o644);
        refused(open(trust, &reader, more), "may be read by others");
        mode(&reader.key, 0o600);
    }
}
