//! A NEO cluster, scripted, against what ZODB says of the file that it serves; nodes that fail, and real ones where they are.

use super::{Bed, Certificate, conforms, follow, opened_remote, same_history};
use crate::neo::{Cluster, Tls};
use crate::oracle::{Dir, Dump, command, oracle, python};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use zring::base::Oid;
use zring::base::limit::RECORD_BYTES_MAX;
use zring::store::any::AnyStore;
use zring::store::remote::{Health, RemoteStore};
use zring::store::zurl::Zurl;

/// Two masters, three storage nodes, each partition on two of them.
struct Neo {
    dir: Dir,
    cluster: Cluster,
}

impl Neo {
    fn start(python: &str) -> Self {
        let dir = super::database(python);
        let cluster = Cluster::start(Path::new(&dir.file("Data.fs")), 2, 3);
        Self { dir, cluster }
    }
}

impl Bed for Neo {
    type Store = RemoteStore;

    fn target(&self) -> String {
        self.file()
    }

    fn file(&self) -> String {
        self.dir.file("Data.fs")
    }

    fn open(&self) -> RemoteStore {
        opened_remote(&self.cluster.zurl())
    }

    fn pack(&self, python: &str) {
        oracle(python, &["pack", &self.file()]);
    }
}

#[test]
fn a_neo_cluster_conforms() {
    let Some(python) = python() else { return };
    let bed = Neo::start(&python);
    conforms(&python, &bed);
    let asked: Vec<_> = (0..3).map(|n| bed.cluster.asked(n)).collect();
    println!("asked: {asked:?}");
    let most = asked.iter().max().unwrap();
    assert!(
        asked.iter().all(|n| *n * 4 > *most),
        "{asked:?}: replicas share"
    );
}

fn becomes(store: &RemoteStore, health: Health) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while store.link().health() != health {
        assert!(Instant::now() < give_up, "{:?}", store.link());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Any one storage node can be missing, said or not; and the master that leads; answers stay right, and what was missed is told.
#[test]
fn a_neo_cluster_that_loses_nodes_answers_all_the_same() {
    let Some(python) = python() else { return };
    let bed = Neo::start(&python);
    let cluster = &bed.cluster;
    let mut store = bed.open();
    let dump = Dump::new(&python, &bed.file());
    let view = store.view();
    for tells in [true, false] {
        cluster.tells(tells);
        for n in 0..3 {
            cluster.kill_storage(n);
            dump.check(&view);
            assert_eq!(store.link().health(), Health::Serving);
            cluster.start_storage(n);
            dump.check(&view);
        }
    }
    cluster.tells(true);
    // Bytes that are not whole are asked of another one.
    cluster.spoil(1);
    dump.check(&view);
    assert_eq!(store.link().connections(), 1);
    for round in 0..3 {
        let leads = cluster.primary();
        cluster.kill_master(leads);
        becomes(&store, Health::Serving);
        let before = store.view().at();
        let log = bed.dir.file(&format!("{round}.jsonl"));
        // While nobody leads, or while somebody does.
        if round == 1 {
            cluster.kill_master(cluster.primary());
            becomes(&store, Health::Frozen);
        }
        super::write(&python, &bed, &log, &round.to_string());
        assert!(round != 1 || store.view().at() == before);
        cluster.start_master(leads);
        let now = Dump::new(&python, &bed.file());
        let seen = follow(&mut store, now.txns.last().unwrap().0);
        same_history(&seen, &now, before);
        becomes(&store, Health::Serving);
        now.check(&store.view());
        for master in 0..2 {
            if master != cluster.primary() && master != leads {
                cluster.start_master(master);
            }
        }
    }
}

/// Objects that a transaction deletes are not announced, and told all the same: at once, and when they were missed.
#[test]
fn what_a_neo_cluster_does_not_announce_is_told() {
    let Some(python) = python() else { return };
    let bed = Neo::start(&python);
    let mut store = bed.open();
    let dump = Dump::new(&python, &bed.file());
    let alive = |oid: &Oid| {
        let said = dump.loads.get(&(*oid, store.view().at()));
        *oid != Oid(0) && said.is_some_and(|said| said.contains(' '))
    };
    let all = dump.txns.iter().flat_map(|txn| txn.1.iter().copied());
    let mut alive: Vec<Oid> = all.filter(alive).collect();
    alive.sort_unstable();
    alive.dedup();
    let (one, two) = (alive[0], alive[1]);
    let tid = super::layers::delete(&python, &bed.file(), one);
    let seen = follow(&mut store, tid);
    assert_eq!((seen[0].0, &seen[0].1[..]), (tid, &[one][..]));
    bed.cluster.kill_master(0);
    bed.cluster.kill_master(1);
    becomes(&store, Health::Frozen);
    let tid = super::layers::delete(&python, &bed.file(), two);
    bed.cluster.start_master(0);
    let seen = follow(&mut store, tid);
    assert_eq!((seen[0].0, &seen[0].1[..]), (tid, &[two][..]));
}

/// Both sides show certificates, whose names do not matter; who shows none that is trusted is told that nothing was accepted.
#[test]
fn a_neo_cluster_by_tls_gives_the_same() {
    let Some(python) = python() else { return };
    let dir = super::database(&python);
    let ca = Certificate::make(&dir, "ca", None);
    let node = Certificate::make(&dir, "node.example", Some(&ca));
    let reader = Certificate::make(&dir, "reader", Some(&ca));
    let stranger = Certificate::make(&dir, "stranger", None);
    let tls = Tls::new(&ca.cert, &node.cert, &node.key);
    let file = dir.file("Data.fs");
    let cluster = Cluster::start_by(Path::new(&file), 2, 2, Some(tls));
    let zurl = |who: &Certificate| {
        let plain = cluster.zurl().replace("neo://", "neos://");
        format!("{plain}?ca={}&cert={}&key={}", ca.cert, who.cert, who.key)
    };
    let store = opened_remote(&zurl(&reader));
    Dump::new(&python, &file).check(&store.view());
    let refused = |zurl: &str| {
        let zurl = Zurl::parse(zurl).unwrap();
        let opened = AnyStore::open(&zurl, RECORD_BYTES_MAX, None, &mut |_, _| {});
        opened.unwrap_err().to_string()
    };
    let said = refused(&zurl(&stranger));
    let words = ["certificate", "alert", "closed the connection"];
    assert!(words.iter().any(|words| said.contains(words)), "{said}");
    let said = refused(&cluster.zurl());
    let words = ["does not greet", "closed the connection"];
    assert!(words.iter().any(|words| said.contains(words)), "{said}");
}

/// A master and two storage nodes of a tree of NEO, as zodb.md 7.9 starts them; ended with this.
struct Real {
    dir: Dir,
    port: u16,
    nodes: Vec<Child>,
}

impl Real {
    fn start(tree: &str, python: &str) -> Self {
        let free = crate::neo::free_port;
        let (dir, port) = (Dir::new(), free());
        let mut this = Self {
            dir,
            port,
            nodes: Vec::new(),
        };
        let master = format!("127.0.0.1:{port}");
        let log = |name: &str| this.dir.file(name);
        let mut all = vec![(
            "neomaster",
            format!("-b {master} -r 1 -p 4 -A 2 -l {}", log("m.log")),
        )];
        for n in 1..=2 {
            let file = log(&format!("s{n}.sqlite"));
            let args = format!("-b 127.0.0.1:{} -a SQLite -d {file} -l {file}.log", free());
            all.push(("neostorage", args));
        }
        for (program, args) in all {
            // Nothing has to be installed: the tree itself is looked into by Python.
            let main =
                format!("import sys; from neo.scripts.{program} import main; sys.exit(main())");
            let mut command = Command::new(python);
            command.args(["-c", &main, "-c", "c", "-m", &master]);
            command.args(args.split(' ')).env("PYTHONPATH", tree);
            this.nodes.push(command.spawn().unwrap());
        }
        this
    }

    fn zurl(&self) -> String {
        format!("neo://c@127.0.0.1:{}", self.port)
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

/// Real nodes, where somebody has them: what a writer writes through Python's client is what is told and loaded.
#[test]
fn real_neo_nodes_give_what_was_written() {
    let Ok(tree) = std::env::var("ZRING_NEO_TREE") else {
        println!("skipped: no NEO server");
        return;
    };
    let Some(python) = python() else { return };
    let real = Real::start(&tree, &python);
    let (zurl, copy) = (real.zurl(), real.dir.file("copy.fs"));
    let live = |n: &str| {
        let log = real.dir.file(&format!("{n}.jsonl"));
        let args = ["live", "--target", &zurl, "--log", &log, "--seed", n];
        let mut writer = command(&python, "tools/make_zodb.py", &args);
        writer
            .args(["--count", "30", "--interval", "2"])
            .env("PYTHONPATH", &tree);
        assert!(writer.status().unwrap().success());
    };
    live("1");
    let mut store = opened_remote(&zurl);
    let begun = store.view();
    live("2");
    let mut copies = command(&python, "compat/relational.py", &["copy", &zurl, &copy]);
    assert!(copies.env("PYTHONPATH", &tree).status().unwrap().success());
    let dump = Dump::new(&python, &copy);
    let seen = follow(&mut store, dump.txns.last().unwrap().0);
    same_history(&seen, &dump, begun.at());
    dump.check(&store.view());
}
