//! Reads of the database where io_uring is forbidden: a few threads that wait in pread(2).
//!
//! One pool for the daemon. A finished read goes back to the worker that asked, through its own channel, and
//! wakes it.

use super::file::ReadBuf;
use super::proc::Waker;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Threads. Reads that come here miss the page cache; a disk gains little beyond this depth.
const THREADS: usize = 8;
/// Reads queued before a worker has to wait. It waits for a thread that waits for a disk, for nobody else.
const QUEUED_MAX: usize = 4096;

/// A read that is to be done, or has been.
#[derive(Debug)]
pub struct Load {
    /// The worker's number of it.
    pub token: u32,
    /// Bytes read, or why not.
    pub result: io::Result<usize>,
    /// The bytes.
    pub buf: ReadBuf,
}

struct Job {
    token: u32,
    file: Arc<File>,
    pos: u64,
    buf: ReadBuf,
    done: Sender<Load>,
    waker: Waker,
}

/// The threads.
#[derive(Clone)]
pub struct Pool {
    jobs: Sender<Job>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} queued)", self.jobs.len())
    }
}

impl Pool {
    /// Starts the threads; they end with the last handle.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn new() -> io::Result<Self> {
        let (jobs, taken) = bounded::<Job>(QUEUED_MAX);
        for n in 0..THREADS {
            let taken = taken.clone();
            super::proc::spawn(&format!("zring-load{n}"), move || {
                for mut job in taken {
                    let result = read_full(&job.file, job.pos, &mut job.buf);
                    // A worker that is gone wants nothing.
                    let _ = job.done.send(Load {
                        token: job.token,
                        result,
                        buf: job.buf,
                    });
                    job.waker.wake();
                }
            })?;
        }
        Ok(Self { jobs })
    }
}

/// One worker's side of the pool.
#[derive(Debug)]
pub struct Loads {
    pool: Pool,
    done: (Sender<Load>, Receiver<Load>),
    waker: Waker,
}

impl Loads {
    /// For the worker that `waker` wakes.
    pub fn new(pool: Pool, waker: Waker) -> Self {
        Self {
            pool,
            done: unbounded(),
            waker,
        }
    }

    /// Asks for a read.
    pub fn start(&self, token: u32, file: Arc<File>, pos: u64, buf: ReadBuf) {
        let job = Job {
            token,
            file,
            pos,
            buf,
            done: self.done.0.clone(),
            waker: self.waker.clone(),
        };
        self.pool
            .jobs
            .send(job)
            .expect("the threads live as long as the pool");
    }

    /// A finished read, if there is one.
    pub fn finished(&self) -> Option<Load> {
        self.done.1.try_recv().ok()
    }
}

/// Reads until `buf` is full or the file ends.
fn read_full(file: &File, pos: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buf.len() {
        match file.read_at(&mut buf[got..], pos + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}
