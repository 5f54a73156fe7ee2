#!/usr/bin/env python3
"""probe.py MNT OPERATION... - carry out operations below MNT and print one line for each.

An operation is a verb, a path below MNT ("." is MNT), and numbers, separated by blanks:

  stat P            ok mode=<octal> size= blksize= blocks= nlink= ino= uid= gid= mtime=<ns> ctime=<ns>
  list P            ok <names, sorted>
  read P OFF LEN    ok <bytes in hex>                         (pread)
  direct P OFF LEN  the same through O_DIRECT
  sum P OFF LEN     ok <sha256 of the bytes> <how many>
  map P OFF LEN     ok <sha256> <how many>, through mmap
  statvfs P         ok bsize= frsize= blocks= files= namelen=
  write P           open for writing, write one byte
  create P, mkdir P, rmdir P, unlink P, symlink P, mknod P, rename P Q,
  chmod P, chown P, utime P, truncate P, setxattr P, getxattr P, listxattr P, removexattr P
                    ok
  race P N          N threads stat P at once: ok <inode numbers that were seen, each once>

A failed one prints "errno <NAME>". Only the standard library is used.
"""

import errno
import hashlib
import mmap
import os
import sys
import threading


def digest(data):
    return "%s %d" % (hashlib.sha256(data).hexdigest(), len(data))


def with_fd(path, flags, use):
    fd = os.open(path, flags)
    try:
        return use(fd)
    finally:
        os.close(fd)


def stat(p):
    s = os.stat(p, follow_symlinks=False)
    return ("mode=%o size=%d blksize=%d blocks=%d nlink=%d ino=%d uid=%d gid=%d mtime=%d ctime=%d" %
            (s.st_mode, s.st_size, s.st_blksize, s.st_blocks, s.st_nlink, s.st_ino, s.st_uid, s.st_gid,
             s.st_mtime_ns, s.st_ctime_ns))


def pread(p, off, n, flags=0):
    def use(fd):
        buf = mmap.mmap(-1, max(n, 1))          # aligned, as O_DIRECT wants it
        got = os.preadv(fd, [memoryview(buf)[:n]], off)
        return buf[:got]
    return with_fd(p, os.O_RDONLY | flags, use)


def mapped(p, off, n):
    def use(fd):
        base = off - off % mmap.PAGESIZE
        with mmap.mmap(fd, off - base + n, prot=mmap.PROT_READ, offset=base) as m:
            return m[off - base:off - base + n]
    return with_fd(p, os.O_RDONLY, use)


def statvfs(p):
    s = os.statvfs(p)
    return "bsize=%d frsize=%d blocks=%d files=%d namelen=%d" % (
        s.f_bsize, s.f_frsize, s.f_blocks, s.f_files, s.f_namemax)


def race(p, n):
    inodes, gate = [], threading.Barrier(n)

    def one():
        gate.wait()
        inodes.append(os.stat(p).st_ino)
    threads = [threading.Thread(target=one) for _ in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if len(inodes) != n:
        return "only %d of %d" % (len(inodes), n)
    return " ".join(map(str, sorted(set(inodes))))


def operation(mnt, words):
    verb, args = words[0], words[1:]
    p = os.path.join(mnt, args[0])
    n = [int(a) for a in args[1:]] if verb != "rename" else []
    return {
        "stat": lambda: stat(p),
        "list": lambda: " ".join(sorted(os.listdir(p))),
        "read": lambda: pread(p, *n).hex(),
        "direct": lambda: pread(p, *n, os.O_DIRECT).hex(),
        "sum": lambda: digest(pread(p, *n)),
        "map": lambda: digest(mapped(p, *n)),
        "statvfs": lambda: statvfs(p),
        "write": lambda: with_fd(p, os.O_WRONLY, lambda fd: os.pwrite(fd, b"x", 0)) and "",
        "create": lambda: with_fd(p, os.O_CREAT | os.O_EXCL | os.O_WRONLY, lambda fd: ""),
        "mkdir": lambda: os.mkdir(p),
        "rmdir": lambda: os.rmdir(p),
        "unlink": lambda: os.unlink(p),
        "symlink": lambda: os.symlink("x", p),
        "mknod": lambda: os.mknod(p),
        "rename": lambda: os.rename(p, os.path.join(mnt, args[1])),
        "chmod": lambda: os.chmod(p, 0o600),
        "chown": lambda: os.chown(p, 1, 1),
        "utime": lambda: os.utime(p, (1, 1)),
        "truncate": lambda: os.truncate(p, 0),
        "setxattr": lambda: os.setxattr(p, "user.x", b"y"),
        "getxattr": lambda: os.getxattr(p, "user.x") and "",
        "listxattr": lambda: " ".join(os.listxattr(p)),
        "removexattr": lambda: os.removexattr(p, "user.x"),
        "race": lambda: race(p, *n),
    }[verb]()


def main():
    mnt = sys.argv[1]
    for text in sys.argv[2:]:
        try:
            print("ok", operation(mnt, text.split()) or "", flush=True)
        except OSError as e:
            print("errno", errno.errorcode.get(e.errno, e.errno), flush=True)


if __name__ == "__main__":
    main()
