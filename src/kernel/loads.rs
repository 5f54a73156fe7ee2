//! Reads of the database where io_uring is forbidden: a few threads that wait in pread(2).
//!
//! One pool for the daemon. A finished read goes back to the worker that asked, through its own channel, and
//! wakes it. A worker never waits for the pool: what would be too much for it stays with the worker, in order, and goes when one of its
//! reads is finished, so that one worker's reads wait behind a bounded number of another's.

use super::file::ReadBuf;
use super::proc::Waker;
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Threads. Reads that come here miss the page cache; a disk gains little beyond this depth.
const THREADS: usize = 8;
/// Reads of one worker in the pool: enough to keep the threads busy. What it keeps to itself is bounded by the requests it holds.
const IN_POOL_MAX: usize = 16 * THREADS;

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

#[derive(Debug)]
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
        let (jobs, taken) = unbounded();
        for n in 0..THREADS {
            let taken = taken.clone();
            super::proc::spawn(&format!("zring-load{n}"), move || work(&taken))?;
        }
        Ok(Self { jobs })
    }
}

/// One thread.
fn work(taken: &Receiver<Job>) {
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
}

/// One worker's side of the pool.
#[derive(Debug)]
pub struct Loads {
    pool: Pool,
    done: (Sender<Load>, Receiver<Load>),
    waker: Waker,
    /// How many are in the pool.
    in_pool: usize,
    /// What is not there yet.
    waiting: VecDeque<Job>,
}

impl Loads {
    /// For the worker that `waker` wakes.
    pub fn new(pool: Pool, waker: Waker) -> Self {
        Self {
            pool,
            done: unbounded(),
            waker,
            in_pool: 0,
            waiting: VecDeque::new(),
        }
    }

    /// Asks for a read; waits for nothing.
    pub fn start(&mut self, token: u32, file: Arc<File>, pos: u64, buf: ReadBuf) {
        let job = Job {
            token,
            file,
            pos,
            buf,
            done: self.done.0.clone(),
            waker: self.waker.clone(),
        };
        self.waiting.push_back(job);
        self.send();
    }

    fn send(&mut self) {
        while self.in_pool < IN_POOL_MAX
            && let Some(job) = self.waiting.pop_front()
        {
            self.in_pool += 1;
            let sent = self.pool.jobs.send(job);
            sent.expect("the threads live as long as the pool");
        }
    }

    /// A finished read, if there is one.
    pub fn finished(&mut self) -> Option<Load> {
        let load = self.done.1.try_recv().ok()?;
        self.in_pool -= 1;
        self.send();
        Some(load)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::time::{Duration, Instant};

    /// Ten thousand reads of each of two workers, of a pool that does nothing at first.
    #[test]
    fn nobody_waits_for_a_pool_that_is_busy() {
        let file = Arc::new(File::open("/proc/self/exe").unwrap());
        let (jobs, taken) = unbounded();
        let pool = Pool { jobs };
        let mut workers = [(); 2].map(|()| Loads::new(pool.clone(), Waker::new().unwrap()));
        for token in 0..10_000 {
            for loads in &mut workers {
                loads.start(token, Arc::clone(&file), 0, ReadBuf::new(vec![0; 4], 4));
            }
        }
        assert_eq!(
            taken.len(),
            2 * IN_POOL_MAX,
            "one does not fill it for the other"
        );
        let thread = super::super::proc::spawn("zring-load", move || work(&taken)).unwrap();
        let began = Instant::now();
        let mut next = [0; 2];
        while next != [10_000; 2] && began.elapsed() < Duration::from_secs(20) {
            for (loads, next) in workers.iter_mut().zip(&mut next) {
                while let Some(load) = loads.finished() {
                    assert_eq!((load.token, load.result.unwrap()), (*next, 4));
                    assert_eq!(&load.buf[..], b"\x7fELF");
                    *next += 1;
                }
            }
        }
        assert_eq!(next, [10_000; 2]);
        assert!(workers.iter().all(|loads| loads.in_pool == 0));
        drop((workers, pool));
        thread.join().unwrap();
    }
}
