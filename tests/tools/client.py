#!/usr/bin/env python3
"""client.py - a client of head/watch that does what it is told, be it right or wrong.

  client.py MNT

Questions come as lines on stdin, each is answered by a line "> <answer>"; what fails is answered by "errno <n>".

  link L [ro|thread]    opens head/watch; for reading alone; by a thread that ends then
  links N OID AT        opens N more, each watches OID @AT and reads the reply
  say L TEXT            writes a line                       poll L      what poll(2) says at once
  hear L [ROOM]         one read(2): what it gave           alarmed L   one read(2), with a signal after 0.2 s
  serve L               from now on a thread reads, and acknowledges pins when they are mapped
  read L                from now on a thread reads, and does nothing about it
  heard L               what these threads heard, and forgets it
  ask L TEXT            a request beside `serve`, its reply and how many microseconds it took
  shut L                closes it                           ignore      SIGBUS from now on
  open OID BLKSIZE      opens and maps a file of head       let OID     undoes that
  look OID BLK          the stamp of a block, by the mapping
  looks OID BLK BLK     the stamps of blocks, the second not among them; they are evicted before
  churn                 from now on a thread has the address space for itself nearly always; `still`: no longer
  pread OID BLK         the same by pread(2)                evict OID BLK   asks the kernel to forget it
  become UID GID [GID]  acts as another user, of a further group; `again`: as root, with the user's own number
  stat PATH             mode in octal, uid and gid of something in the mount
  flood L N             writes N requests that mean nothing; how many milliseconds that took
  fork                  a child goes on in its place, with the descriptors; the parent closes its own, and waits
  leave                 the same, but the parent ends
"""

import ctypes
import os
import resource
import select
import signal
import sys
import threading
import time

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_longlong]
LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
PROT_READ, MAP_SHARED, MAP_FIXED = 1, 1, 16
MADV_RANDOM, MADV_DONTNEED, MADV_NOHUGEPAGE, MADV_POPULATE_READ = 1, 4, 15, 22


def shown(data):
    return data.decode().replace("\n", "$") if data else "EOF"


def stamp(data):
    return str(int.from_bytes(data[:8], "little") >> 40)


class File:
    """A file of head, mapped; blocks of it may be mapped from elsewhere."""

    def __init__(self, mnt, oid, blksize):
        self.mnt, self.oid, self.blksize = mnt, oid, blksize
        self.fd = os.open("%s/head/bigfile/%s" % (mnt, oid), os.O_RDONLY)
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_RANDOM)
        self.size = os.fstat(self.fd).st_size
        self.base = None
        self.map(0, self.size, self.fd)

    def map(self, off, length, fd):
        where, flags = (self.base + off, MAP_SHARED | MAP_FIXED) if self.base else (None, MAP_SHARED)
        got = LIBC.mmap(where, length, PROT_READ, flags, fd, off)
        if got == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "mmap")
        LIBC.madvise(got, length, MADV_RANDOM)
        self.base = self.base or got

    def pin(self, blk, rev):
        view = "head" if rev == "head" else "@" + rev
        fd = os.open("%s/%s/bigfile/%s" % (self.mnt, view, self.oid), os.O_RDONLY)
        os.fstat(fd)
        self.map(blk * self.blksize, self.blksize, fd)
        os.close(fd)

    def look(self, blk):
        # Copied by a foreign function: the thread that answers pins may run while this one is in the fault.
        first = ctypes.create_string_buffer(8)
        ctypes.memmove(first, self.base + blk * self.blksize, 8)
        return stamp(first.raw)

    def evict(self, blk):
        LIBC.madvise(self.base + blk * self.blksize, self.blksize, MADV_DONTNEED)
        os.posix_fadvise(self.fd, blk * self.blksize, self.blksize, os.POSIX_FADV_DONTNEED)


class Link:
    """One open of head/watch, and what was heard on it by a thread."""

    def __init__(self, mnt, flags):
        self.fd = os.open(mnt + "/head/watch", flags)
        self.heard, self.came = [], threading.Condition()

    def listen(self, files, acks):
        try:
            while True:
                data = os.read(self.fd, 4096)
                words = data.decode().split()
                if acks and len(words) == 5 and words[1] == "pin":
                    files[words[2]].pin(int(words[3][1:]), words[4][1:])
                    # Noted first: what waits for the answer may ask for it.
                    self.note(shown(data))
                    os.write(self.fd, b"%s ack\n" % words[0].encode())
                else:
                    self.note(shown(data))
                if not data:
                    return
        except OSError as e:
            self.note("errno %d" % e.errno)

    def note(self, what):
        with self.came:
            self.heard.append(what)
            self.came.notify_all()

    def reply(self, stream):
        """The reply to a request, once it has been heard."""
        def there():
            return [h for h in self.heard if h.startswith(stream + " ") or h == "EOF" or h.startswith("errno")]
        with self.came:
            self.came.wait_for(there, 60)
            found = there()[0]
            self.heard.remove(found)
        return found


class Client:
    def __init__(self, mnt):
        self.mnt, self.links, self.files = mnt, {}, {}

    def link(self, name, how=""):
        def make():
            self.links[name] = Link(self.mnt, os.O_RDONLY if how == "ro" else os.O_RDWR)
        if how == "thread":
            # By a thread of which the system knows nothing any more when this returns.
            thread = threading.Thread(target=make)
            thread.start()
            tid = thread.native_id
            thread.join()
            while os.path.exists("/proc/self/task/%d" % tid):
                time.sleep(0.001)
        else:
            make()
        return "linked"

    def links_(self, count, oid, at):
        count = int(count)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 100), hard))
        good = 0
        for n in range(count):
            link = self.links["many%d" % n] = Link(self.mnt, os.O_RDWR)
            os.write(link.fd, ("1 watch %s @%s\n" % (oid, at)).encode())
            good += os.read(link.fd, 4096) == b"1 ok\n"
        return str(good)

    def say(self, name, *words):
        return str(os.write(self.links[name].fd, (" ".join(words) + "\n").encode()))

    def hear(self, name, room="4096"):
        return shown(os.read(self.links[name].fd, int(room)))

    def alarmed(self, name):
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        buf = ctypes.create_string_buffer(4096)
        got = LIBC.read(self.links[name].fd, buf, 4096)
        if got < 0:
            raise OSError(ctypes.get_errno(), "read")
        return shown(buf.raw[:got])

    def poll(self, name):
        poll = select.poll()
        poll.register(self.links[name].fd, select.POLLIN | select.POLLOUT)
        return " ".join(str(events) for _, events in poll.poll(5000))

    def serve(self, name, acks=True):
        threading.Thread(target=self.links[name].listen, args=(self.files, acks), daemon=True).start()
        return "served"

    def read(self, name):
        return self.serve(name, False)

    def heard(self, name):
        link = self.links[name]
        with link.came:
            heard, link.heard = link.heard, []
        return " ".join(heard)

    def ask(self, name, *words):
        began = time.monotonic()
        self.say(name, *words)
        reply = self.links[name].reply(words[0])
        return "%s %d" % (reply, (time.monotonic() - began) * 1e6)

    def shut(self, name):
        if name == "many":
            for name in [n for n in self.links if n.startswith("many")]:
                os.close(self.links.pop(name).fd)
        else:
            os.close(self.links.pop(name).fd)
        return "shut"

    def ignore(self):
        signal.signal(signal.SIGBUS, signal.SIG_IGN)
        return "ignored"

    def open(self, oid, blksize):
        self.files[oid] = File(self.mnt, oid, int(blksize))
        return str(self.files[oid].size)

    def let(self, oid):
        file = self.files.pop(oid)
        LIBC.munmap(ctypes.c_void_p(file.base), ctypes.c_size_t(file.size))
        os.close(file.fd)
        return "let"

    def look(self, oid, blk):
        return self.files[oid].look(int(blk))

    def looks(self, oid, first, end):
        blks = range(int(first), int(end))
        for blk in blks:
            self.files[oid].evict(blk)
        return " ".join(self.look(oid, blk) for blk in blks)

    def churn(self):
        size, anonymous = 256 << 20, 0x22
        at = LIBC.mmap(None, size, PROT_READ, anonymous, -1, 0)
        LIBC.madvise(at, size, MADV_NOHUGEPAGE)
        LIBC.madvise(at, size, MADV_POPULATE_READ)
        self.churns = True

        def run():
            while self.churns:
                for protection in (0, PROT_READ):
                    LIBC.mprotect(at, size, protection)
        threading.Thread(target=run, daemon=True).start()
        return "churns"

    def still(self):
        self.churns = False
        return "still"

    def pread(self, oid, blk):
        file = self.files[oid]
        return stamp(os.pread(file.fd, file.blksize, int(blk) * file.blksize))

    def evict(self, oid, blk):
        self.files[oid].evict(int(blk))
        return "evicted"

    def become(self, uid, gid, *groups):
        os.setgroups([int(g) for g in groups])
        os.setresgid(int(gid), int(gid), int(gid))
        # It may be root again, as a program may that belongs to root.
        os.setresuid(int(uid), int(uid), 0)
        os.chdir("/")
        return "became"

    def again(self):
        os.seteuid(0)
        return "again"

    def stat(self, path):
        s = os.stat(os.path.join(self.mnt, path))
        return "%o %d %d" % (s.st_mode & 0o7777, s.st_uid, s.st_gid)

    def flood(self, name, count):
        text, began = b"1 x\n" * int(count), time.monotonic()
        while text:
            text = text[os.write(self.links[name].fd, text[:4 << 10]):]
        return "%d" % ((time.monotonic() - began) * 1e3)

    def fork(self, ends=False):
        parent = os.getpid()
        if os.fork() == 0:
            return str(parent)
        for link in self.links.values():
            os.close(link.fd)
        if ends:
            os._exit(0)
        while True:
            signal.pause()

    def leave(self):
        return self.fork(True)


def main():
    client = Client(sys.argv[1])
    names = {"links": client.links_}
    while True:
        # Byte by byte: nothing that was asked is in a buffer when it forks.
        line = b""
        while not line.endswith(b"\n"):
            byte = os.read(0, 1)
            if not byte:
                os._exit(0)
            line += byte
        word, *words = line.decode()[:-1].split(" ")
        try:
            answer = (names.get(word) or getattr(client, word))(*words)
        except OSError as e:
            answer = "errno %d" % e.errno
        os.write(1, ("> %s\n" % answer).encode())


main()
