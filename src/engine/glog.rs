//! Log lines and files as the drop-in server writes them: the format and the rules of glog.
//!
//! A line is `Lmmdd hh:mm:ss.uuuuuu <thread> <file>:<line>] <text>`, `L` one of I, W, E, F. By default lines go to files, one for
//! each level that holds that level and those above, and from ERROR on to stderr too. A file is made by its first line.
//! Owned by the log thread.

use super::log::{Level, Line};
use crate::kernel::proc::{self, WallTime};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

/// Levels and their names in files.
const NAMES: [&str; 4] = ["INFO", "WARNING", "ERROR", "FATAL"];

impl Level {
    /// `INFO` to `FATAL` in any case, or 0 to 3.
    pub fn parse(text: &str) -> Option<Self> {
        let index = match text.parse::<usize>() {
            Ok(number) => number,
            Err(_) => NAMES.iter().position(|n| n.eq_ignore_ascii_case(text))?,
        };
        [Self::Info, Self::Warning, Self::Error, Self::Fatal]
            .get(index)
            .copied()
    }
}

/// Where lines go.
#[derive(Clone, Debug)]
pub struct Places {
    /// Name of the program, in names of files.
    pub program: String,
    /// To stderr, and to no file.
    pub to_stderr: bool,
    /// To stderr as well.
    pub also_to_stderr: bool,
    /// To stderr as well from this level on.
    pub threshold: Level,
    /// Directory of files.
    pub dir: PathBuf,
    /// Directory of further links to the files.
    pub link_dir: Option<PathBuf>,
}

impl Places {
    /// A file in each directory that it makes some in.
    pub fn files(&self) -> Vec<PathBuf> {
        let dirs = std::iter::once(&self.dir).chain(&self.link_dir);
        let dirs = dirs.filter(|_| !self.to_stderr);
        dirs.map(|dir| dir.join(format!("{}.INFO", self.program)))
            .collect()
    }
}

/// See the module.
#[derive(Debug)]
pub struct Glog {
    places: Places,
    /// A file for each level; the inner is `None` when it cannot be made.
    files: [Option<Option<File>>; 4],
}

impl Glog {
    /// No file is made yet.
    pub fn new(places: Places) -> Self {
        Self {
            places,
            files: Default::default(),
        }
    }

    /// Writes a line wherever it belongs. What cannot be written is no reason to stop serving.
    pub(super) fn write(&mut self, line: &Line) {
        let text = format(line);
        let places = &self.places;
        if places.to_stderr || places.also_to_stderr || line.level >= places.threshold {
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
        if places.to_stderr {
            return;
        }
        for index in 0..=line.level as usize {
            let file = self.files[index].get_or_insert_with(|| open(places, index));
            if let Some(file) = file {
                let _ = file.write_all(text.as_bytes());
            }
        }
    }
}

/// A line as it is written.
fn format(line: &Line) -> String {
    let letter = NAMES[line.level as usize].chars().next().unwrap_or('I');
    let WallTime {
        date: (_, month, day),
        time: (h, m, s),
        micros,
    } = WallTime::of(line.at);
    let file = line.place.file().rsplit('/').next().unwrap_or_default();
    format!(
        "{letter}{month:02}{day:02} {h:02}:{m:02}:{s:02}.{micros:06} {:7} {file}:{}] {}\n",
        line.thread,
        line.place.line(),
        line.text
    )
}

/// A new file, its head written, and links to it.
fn open(places: &Places, index: usize) -> Option<File> {
    let (host, user) = proc::host_and_user();
    let WallTime {
        date: (year, month, day),
        time: (h, m, s),
        ..
    } = WallTime::of(SystemTime::now());
    let (program, level) = (&places.program, NAMES[index]);
    let stamp = format!("{year:04}{month:02}{day:02}-{h:02}{m:02}{s:02}");
    let pid = std::process::id();
    let name = format!("{program}.{host}.{user}.log.{level}.{stamp}.{pid}");
    // The temporary directory belongs to everybody: neither a file nor a link that lies there is followed.
    let file = File::options()
        .append(true)
        .create_new(true)
        .open(places.dir.join(&name));
    let mut file = file
        .inspect_err(|error| {
            let dir = places.dir.display();
            let _ = writeln!(std::io::stderr(), "log file {dir}/{name}: {error}");
        })
        .ok()?;
    let link = format!("{program}.{level}");
    let _ = std::fs::remove_file(places.dir.join(&link));
    let _ = std::os::unix::fs::symlink(&name, places.dir.join(&link));
    if let Some(dir) = &places.link_dir {
        let _ = std::fs::remove_file(dir.join(&link));
        let _ = std::os::unix::fs::symlink(places.dir.join(&name), dir.join(&link));
    }
    let _ = writeln!(
        file,
        "Log file created at: {year:04}/{month:02}/{day:02} {h:02}:{m:02}:{s:02}\nRunning on machine: {host}\n\
         Binary: Built with zring {}\nLog line format: [IWEF]mmdd hh:mm:ss.uuuuuu threadid file:line] msg",
        env!("CARGO_PKG_VERSION")
    );
    Some(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::log::{Log, Style};

    #[test]
    fn a_file_holds_its_level_and_those_above() {
        let dir = std::env::temp_dir().join(format!("zring-glog-{}", std::process::id()));
        std::fs::create_dir(&dir).expect("the directory is new");
        let places = Places {
            program: "wcfs".to_owned(),
            to_stderr: false,
            also_to_stderr: false,
            threshold: Level::Fatal,
            dir: dir.clone(),
            link_dir: None,
        };
        let log = Log::start(Style::Glog(Glog::new(places))).expect("a thread");
        log.info("one");
        log.error("two");
        log.flush();
        let read = |level: &str| std::fs::read_to_string(dir.join(format!("wcfs.{level}")));
        let (info, error) = (read("INFO"), read("ERROR"));
        std::fs::remove_dir_all(&dir).expect("it is ours");
        let (info, error) = (info.expect("INFO is there"), error.expect("ERROR is there"));
        let lines: Vec<&str> = info.lines().skip(4).collect();
        assert_eq!(lines.len(), 2, "{info}");
        // I0131 12:34:56.123456 1234567 glog.rs:1] one
        let (head, text) = lines[0].split_once("] ").expect("a head");
        assert!(text == "one" && head.starts_with('I'), "{info}");
        assert_eq!(head.as_bytes()[5], b' ');
        assert_eq!(head.find('.'), Some(14));
        assert!(head[22..].trim_start().contains(" glog.rs:"), "{head}");
        assert!(
            error.ends_with("] two\n") && !error.contains("] one"),
            "{error}"
        );
    }

    #[test]
    fn levels_are_named_or_numbered() {
        assert_eq!(Level::parse("warning"), Some(Level::Warning));
        assert_eq!(Level::parse("3"), Some(Level::Fatal));
        assert_eq!(Level::parse("4"), None);
        assert_eq!(Level::parse("loud"), None);
    }
}
