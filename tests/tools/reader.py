#!/usr/bin/env python3
"""reader.py pread|mmap SEED FILE... - read random places of mounted files until that fails.

Every round opens a file, drops what the page cache has of the place, and reads it, so that the daemon is asked each
time. Prints "reading" after the first round, and at the end "<rounds> rounds, then <ERRNO> in <call>"; exit status 0.
A mapped read that the daemon does not answer ends this process by SIGBUS. Only the standard library is used.
"""

import errno
import mmap
import os
import random
import sys

how, seed, files = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
rnd = random.Random(seed)
rounds, call = 0, ""
fd = -1
try:
    while True:
        call = "open"
        fd = os.open(rnd.choice(files), os.O_RDONLY)
        call = "fstat"
        st = os.fstat(fd)
        nblk = st.st_size // st.st_blksize
        if nblk:
            off, n = rnd.randrange(nblk) * st.st_blksize, min(st.st_blksize, 65536)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            if how == "mmap":
                call = "mmap"
                with mmap.mmap(fd, st.st_size, prot=mmap.PROT_READ) as m:
                    call = "fault"
                    data = m[off:off + n]
            else:
                call = "pread"
                data = os.pread(fd, n, off)
            if len(data) != n and how == "pread" and data:
                # What was cached is given before the error of the rest: the rest has to be an error then.
                call = "pread of the rest"
                os.pread(fd, n - len(data), off + len(data))
            if len(data) != n:
                print("SHORT", len(data), "of", n, "at", off)
                sys.exit(1)
        call = "close"
        closing, fd = fd, -1
        os.close(closing)
        rounds += 1
        if rounds == 1:
            print("reading", flush=True)
except OSError as e:
    if fd >= 0:
        try:
            os.close(fd)
        except OSError:
            pass
    print("%d rounds, then %s in %s" % (rounds, errno.errorcode.get(e.errno, e.errno), call), flush=True)
