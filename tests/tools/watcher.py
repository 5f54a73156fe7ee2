#!/usr/bin/env python3
"""watcher.py - many clients of head/watch beside a live writer: what each sees must be its own transaction.

  watcher.py MNT MANIFEST LOG.jsonl [--clients N] [--duration S] [--seed N] [--stay S]

Each client is a process. It maps every file of head once, as far as the file goes as of its transaction, MAP_SHARED; a thread
of its own answers pins by mapping @<rev> over the block with MAP_FIXED, while the main thread sits in the page fault that made
the server ask. It stays at a transaction for a while, reads blocks through the mapping and compares their sha256 with what
make_zodb.py says of that transaction; then it moves on to a newer one, sometimes one that head has not reached.

Last line: "<n> blocks by <m> clients, <p> pins, <k> differences"; exit status 1 when k > 0, a client died, or n == 0.
"""

import argparse
import ctypes
import hashlib
import json
import os
import random
import sys
import threading
import time

import verify_mount

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_longlong]
LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
PROT_READ, MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS = 1, 1, 2, 16, 32
MADV_RANDOM, MADV_DONTNEED = 1, 4
AHEAD = 1 << 16  # blocks that a file may grow by
PIECES_MAX = 8000  # mappings of a file: the kernel does not merge those of FUSE, and a process may have 65530


def mmap(addr, length, fd, off, flags):
    got = LIBC.mmap(addr, length, PROT_READ, flags, fd, off)
    if got == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    return got


class Link:
    """One open of head/watch."""

    def __init__(self, mnt, on_pin):
        self.fd = os.open(mnt + "/head/watch", os.O_RDWR)
        self.on_pin, self.stream, self.pins = on_pin, 1, 0
        self.replies, self.came = {}, threading.Condition()
        self.error = None
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        try:
            while True:
                data = os.read(self.fd, 4096)
                if not data:
                    break
                assert data.endswith(b"\n") and len(data) <= 250, data
                stream, msg = data[:-1].decode().split(" ", 1)
                stream = int(stream)
                if stream == 0:
                    raise RuntimeError(msg)
                if stream % 2:
                    with self.came:
                        self.replies[stream] = msg
                        self.came.notify_all()
                    continue
                word, oid, blk, rev = msg.split(" ")
                assert word == "pin" and blk[0] == "#" and rev[0] == "@", msg
                self.pins += 1
                self.on_pin(oid, int(blk[1:]), rev[1:])
                os.write(self.fd, b"%d ack\n" % stream)
        except Exception as e:  # noqa: BLE001 - told by whoever waits
            with self.came:
                self.error = e
                self.came.notify_all()

    def ask(self, msg, patience=120):
        stream, self.stream = self.stream, self.stream + 2
        os.write(self.fd, b"%d %s\n" % (stream, msg.encode()))
        with self.came:
            if not self.came.wait_for(lambda: stream in self.replies or self.error, patience):
                raise RuntimeError("no reply to " + msg)
            if self.error:
                raise self.error
            return self.replies.pop(stream)


class Mapping:
    """A file as of the client's transaction."""

    def __init__(self, mnt, oid, blksize, blocks):
        self.mnt, self.oid, self.blksize = mnt, oid, blksize
        self.fd = os.open("%s/head/bigfile/%s" % (mnt, oid), os.O_RDONLY)
        self.room = (blocks + AHEAD) * blksize
        self.base = mmap(None, self.room, -1, 0, MAP_PRIVATE | MAP_ANONYMOUS)
        self.mapped, self.lock = 0, threading.Lock()
        self.pinned, self.pieces = {}, 0

    def grow(self, size):
        """Head is mapped up to the size as of the new transaction. What is pinned already stays pinned."""
        with self.lock:
            assert size <= self.room
            # A fault does not ask how long the file is: what the kernel believes is made to be as new as head/at.
            assert os.fstat(self.fd).st_size >= size
            if size > self.mapped:
                first, end = self.mapped // self.blksize, size // self.blksize
                held = sorted(blk for blk in self.pinned if first <= blk < end)
                for lo, hi in zip([first] + [blk + 1 for blk in held], held + [end]):
                    self.put(lo, self.fd, hi - lo)
                self.mapped = size
            if self.pieces > PIECES_MAX:
                # Nobody looks meanwhile.
                self.put(0, self.fd, self.mapped // self.blksize)
                self.pieces = 1
                for blk, rev in self.pinned.items():
                    self.put_rev(blk, rev)

    def put(self, blk, fd, count=1):
        if count:
            at = self.base + blk * self.blksize
            mmap(at, count * self.blksize, fd, blk * self.blksize, MAP_SHARED | MAP_FIXED)
            LIBC.madvise(at, count * self.blksize, MADV_RANDOM)
            self.pieces += 2

    def put_rev(self, blk, rev):
        fd = os.open("%s/@%s/bigfile/%s" % (self.mnt, rev, self.oid), os.O_RDONLY)
        try:
            self.put(blk, fd)
        finally:
            os.close(fd)

    def pin(self, blk, rev):
        with self.lock:
            if (blk + 1) * self.blksize > self.room:
                return
            if rev == "head":
                self.pinned.pop(blk, None)
                if blk * self.blksize < self.mapped:
                    self.put(blk, self.fd)
                return
            self.pinned[blk] = rev
            self.put_rev(blk, rev)

    def sha(self, blk):
        # Longer than 2047 bytes: hashlib lets the thread that answers pins run while this one is in the fault.
        data = (ctypes.c_char * self.blksize).from_address(self.base + blk * self.blksize)
        return hashlib.sha256(data).hexdigest()


class Client:
    def __init__(self, a, number):
        self.a, self.rnd = a, random.Random(a.seed * 1000 + number)
        self.oids, revs = verify_mount.load([a.manifest])
        self.table = verify_mount.Table()
        for rev in revs:
            self.table.apply(rev)
        self.last = revs[-1]["tid"]
        self.log, self.begun, self.news = open(a.log), "", []
        self.maps, self.checked, self.bad = {}, 0, []
        self.link = Link(a.mnt, lambda oid, blk, rev: self.maps[oid].pin(blk, rev))

    def hear(self):
        """Transactions that the writer says it made."""
        self.begun += self.log.read()
        *lines, self.begun = self.begun.split("\n")
        for line in lines:
            line = json.loads(line)
            if "tid" in line:
                self.news.append(line)

    def move(self):
        """To a newer transaction, mostly not the newest."""
        self.hear()
        back = self.rnd.choice((0, 0, 1, 3, 20))
        count = max(len(self.news) - back, 0)
        for rev in self.news[:count]:
            if rev["tid"] > self.last:
                self.table.apply(rev)
                self.last = rev["tid"]
        del self.news[:count]
        files = list(self.table.files.items())
        self.rnd.shuffle(files)
        for name, t in files:
            oid = self.oids[name]
            size = (max(t["blks"]) + 1) * t["blksize"] if t["blks"] else 0
            if oid not in self.maps:
                self.maps[oid] = Mapping(self.a.mnt, oid, t["blksize"], size // t["blksize"])
            reply = self.link.ask("watch %s @%s +size" % (oid, self.last))
            if reply != "ok %d" % size:
                raise RuntimeError("%s, but size is %d" % (reply, size))
            self.maps[oid].grow(size)

    def check(self, until):
        names = [n for n, t in self.table.files.items() if t["blks"]]
        while time.time() < until:
            name = self.rnd.choice(names)
            t = self.table.files[name]
            m = self.maps[self.oids[name]]
            # What commits change is what was looked at lately, mostly.
            blks = max(t["blks"]) + 1
            blk = self.rnd.randrange(blks) if self.rnd.random() < 0.5 else blks - 1 - self.rnd.randrange(min(blks, 8))
            if self.rnd.random() < 0.3:
                # Somebody lets go of the page, so that a fault asks for it again.
                LIBC.madvise(m.base + blk * m.blksize, m.blksize, MADV_DONTNEED)
                os.posix_fadvise(m.fd, blk * m.blksize, m.blksize, os.POSIX_FADV_DONTNEED)
            got, want = m.sha(blk), t["blks"].get(blk) or verify_mount.zero_sha(t["blksize"])
            self.checked += 1
            if got != want:
                self.bad.append("%s block %d @%s pinned %s" % (name, blk, self.last, m.pinned.get(blk)))

    def run(self):
        end = time.time() + self.a.duration
        while time.time() < end and len(self.bad) < 10:
            self.move()
            self.check(min(end, time.time() + self.rnd.expovariate(1 / self.a.stay)))
        self.link.ask  # nothing is asked any more
        os.write(self.link.fd, b"%d bye\n" % self.link.stream)


def child(a, number, out):
    client = None
    try:
        client = Client(a, number)
        client.run()
        error = None
    except Exception as e:  # noqa: BLE001 - told to the parent
        error = "%s: %s" % (type(e).__name__, e)
    result = {"client": number, "error": error}
    if client:
        result.update(checked=client.checked, bad=client.bad, pins=client.link.pins)
    os.write(out, json.dumps(result).encode() + b"\n")
    os._exit(0)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("mnt")
    p.add_argument("manifest")
    p.add_argument("log")
    p.add_argument("--clients", type=int, default=8)
    p.add_argument("--duration", type=float, default=20)
    p.add_argument("--stay", type=float, default=1.0)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    pipes = []
    for number in range(a.clients):
        r, w = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(r)
            child(a, number, w)
        os.close(w)
        pipes.append((number, pid, r))
    checked = pins = bad = 0
    for number, pid, r in pipes:
        with os.fdopen(r) as f:
            text = f.read()
        _, status = os.waitpid(pid, 0)
        if not text:
            bad += 1
            print("BAD client %d died, status %d" % (number, status), flush=True)
            continue
        result = json.loads(text)
        checked += result.get("checked", 0)
        pins += result.get("pins", 0)
        for what in ([result["error"]] if result["error"] else []) + result.get("bad", []):
            bad += 1
            print("BAD client %d: %s" % (number, what), flush=True)
    print("%d blocks by %d clients, %d pins, %d differences" % (checked, a.clients, pins, bad))
    return 1 if bad or not checked else 0


if __name__ == "__main__":
    sys.exit(main())
