//! One test per kind of change, on every file system with every engine.

use crate::scene::{drain, everywhere, short, told};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use zring::kernel::watch::{Engine, Event, Watcher};
use zring::wire::fsevent::Mask;

fn watch(root: &Path, engine: Engine) -> Watcher {
    Watcher::open(root, false, Some(engine)).unwrap()
}

#[test]
fn files_come_change_and_go() {
    everywhere(|root, engine| {
        fs::create_dir(root.join("d")).unwrap();
        let mut watcher = watch(root, engine);
        let mut file = File::create(root.join("d/f")).unwrap();
        file.write_all(b"x").unwrap();
        let open = drain(&mut watcher);
        assert!(told(&open, "d/f", Mask::CREATE) && told(&open, "d/f", Mask::MODIFY));
        assert!(!told(&open, "d/f", Mask::CLOSE_WRITE));
        drop(file);
        assert!(told(&drain(&mut watcher), "d/f", Mask::CLOSE_WRITE));
        fs::set_permissions(root.join("d/f"), PermissionsExt::from_mode(0o600)).unwrap();
        let modes = drain(&mut watcher);
        assert_eq!(short(&modes), [("d/f".to_owned(), Mask::ATTRIB)]);
        fs::remove_file(root.join("d/f")).unwrap();
        assert!(told(&drain(&mut watcher), "d/f", Mask::DELETE));
        // Reading, listing, looking: nothing.
        fs::write(root.join("g"), "y").unwrap();
        drain(&mut watcher);
        fs::read(root.join("g")).unwrap();
        fs::read_dir(root.join("d")).unwrap().count();
        fs::metadata(root.join("g")).unwrap();
        assert_eq!(short(&drain(&mut watcher)), []);
    });
}

#[test]
fn who_did_it_is_told_by_fanotify() {
    everywhere(|root, engine| {
        let mut watcher = watch(root, engine);
        fs::write(root.join("f"), "x").unwrap();
        let me = (engine != Engine::Inotify).then(|| std::process::id().cast_signed());
        let events = drain(&mut watcher);
        assert!(!events.is_empty() && events.iter().all(|e| e.pid == me));
    });
}

#[test]
fn a_rename_names_both_places() {
    everywhere(|root, engine| {
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("d/f"), "x").unwrap();
        let outside = root.with_extension("out");
        fs::write(root.join("leaves"), "x").unwrap();
        let mut watcher = watch(root, engine);
        fs::rename(root.join("d/f"), root.join("g")).unwrap();
        let events = drain(&mut watcher);
        assert!(told(&events, "d/f", Mask::MOVED_FROM) && told(&events, "g", Mask::MOVED_TO));
        // Out of the tree, and into it: one place each.
        fs::rename(root.join("leaves"), &outside).unwrap();
        let events = drain(&mut watcher);
        assert_eq!(short(&events), [("leaves".to_owned(), Mask::MOVED_FROM)]);
        fs::rename(&outside, root.join("comes")).unwrap();
        let events = drain(&mut watcher);
        assert_eq!(short(&events), [("comes".to_owned(), Mask::MOVED_TO)]);
    });
}

#[test]
fn a_renamed_directory_takes_its_paths_along() {
    everywhere(|root, engine| {
        fs::create_dir_all(root.join("a/b/c")).unwrap();
        let mut watcher = watch(root, engine);
        fs::write(root.join("a/b/c/f"), "x").unwrap();
        assert!(told(&drain(&mut watcher), "a/b/c/f", Mask::CLOSE_WRITE));
        fs::rename(root.join("a/b"), root.join("z")).unwrap();
        let events = drain(&mut watcher);
        assert!(told(&events, "a/b", Mask::DIR) && told(&events, "z", Mask::DIR));
        fs::write(root.join("z/c/f"), "y").unwrap();
        let events = drain(&mut watcher);
        assert!(told(&events, "z/c/f", Mask::CLOSE_WRITE), "{events:?}");
        assert!(events.iter().all(|e| e.path.starts_with(b"z/")));
        // Written to while it is not yet known that it moved.
        fs::write(root.join("z/c/f"), "y").unwrap();
        fs::rename(root.join("z"), root.join("y")).unwrap();
        fs::write(root.join("y/c/g"), "y").unwrap();
        let events = drain(&mut watcher);
        let below = |path: &str| events.iter().any(|e| e.path == path.as_bytes());
        assert!(below("y/c/g") && below("z") && below("y"), "{events:?}");
    });
}

#[test]
fn trees_that_appear_are_told_of_down_to_their_leaves() {
    everywhere(|root, engine| {
        let mut watcher = watch(root, engine);
        fs::create_dir_all(root.join("a/b/c")).unwrap();
        fs::write(root.join("a/b/c/f"), "x").unwrap();
        let events = drain(&mut watcher);
        assert!(told(&events, "a", Mask::DIR), "{events:?}");
        assert!(told(&events, "a/b/c/f", Mask::CREATE), "{events:?}");
        // And are watched from then on.
        fs::write(root.join("a/b/c/g"), "x").unwrap();
        assert!(told(&drain(&mut watcher), "a/b/c/g", Mask::CLOSE_WRITE));
        fs::remove_dir_all(root.join("a")).unwrap();
        let events = drain(&mut watcher);
        assert!(told(&events, "a", Mask::DELETE) && told(&events, "a", Mask::DIR));
        // The same name again is another directory.
        fs::create_dir(root.join("a")).unwrap();
        drain(&mut watcher);
        fs::write(root.join("a/f"), "x").unwrap();
        assert!(told(&drain(&mut watcher), "a/f", Mask::CLOSE_WRITE));
    });
}

#[test]
fn stores_through_a_map_are_told_of_by_the_close_alone() {
    everywhere(|root, engine| {
        let path = root.join("f");
        fs::write(&path, [0; 4096]).unwrap();
        let mut watcher = watch(root, engine);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        store(&file);
        // Silence, though the bytes are others now: why there is a pass now and then.
        let modified = |events: &[Event]| told(events, "f", Mask::MODIFY);
        assert!(!modified(&drain(&mut watcher)));
        assert_eq!(fs::read(&path).unwrap()[7], 42);
        drop(file);
        let events = drain(&mut watcher);
        assert!(told(&events, "f", Mask::CLOSE_WRITE) && !modified(&events));
    });
}

#[allow(unsafe_code, reason = "a store through a shared mapping")]
fn store(file: &File) {
    // SAFETY: nobody makes the file shorter while it is mapped.
    let mut map = unsafe { memmap2::MmapMut::map_mut(file) }.unwrap();
    map[7] = 42;
}

#[test]
fn names_are_bytes() {
    use std::os::unix::ffi::OsStrExt;
    everywhere(|root, engine| {
        let mut watcher = watch(root, engine);
        let name = [b"\xff\n".as_slice(), &[b'x'; 253]].concat();
        fs::write(root.join(std::ffi::OsStr::from_bytes(&name)), "x").unwrap();
        let events = drain(&mut watcher);
        assert!(events.iter().any(|e| e.path == name), "{events:?}");
    });
}

#[test]
fn the_end_of_the_root_is_told_of() {
    everywhere(|root, engine| {
        let tree = root.join("tree");
        fs::create_dir(&tree).unwrap();
        let mut watcher = watch(&tree, engine);
        fs::rename(&tree, root.join("other")).unwrap();
        let events = drain(&mut watcher);
        let of_root = |e: &Event| e.path.is_empty() && e.mask.any(Mask::DIR);
        assert!(events.iter().any(of_root), "{events:?}");
    });
}

#[test]
fn what_lies_beside_the_root_is_not_told_of() {
    everywhere(|root, engine| {
        fs::create_dir_all(root.join("tree")).unwrap();
        fs::create_dir_all(root.join("tree2/d")).unwrap();
        let mut watcher = watch(&root.join("tree"), engine);
        fs::write(root.join("tree2/d/f"), "x").unwrap();
        fs::write(root.join("f"), "x").unwrap();
        fs::write(root.join("tree/f"), "x").unwrap();
        let events = drain(&mut watcher);
        assert!(told(&events, "f", Mask::CREATE));
        assert!(events.iter().all(|e| e.path == b"f"), "{events:?}");
    });
}

#[test]
fn a_root_that_is_none_is_an_error_that_names_it() {
    for engine in [None, Some(Engine::Fanotify), Some(Engine::Inotify)] {
        let error = Watcher::open(Path::new("/nowhere/at all"), false, engine).unwrap_err();
        assert!(
            error.to_string().starts_with("/nowhere/at all: "),
            "{error}"
        );
    }
}
