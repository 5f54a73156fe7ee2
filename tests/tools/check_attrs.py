#!/usr/bin/env python3
"""check_attrs.py MNT MANIFEST UID GID - attributes of all files at all revisions of a manifest.

Mode 0100444, size and block size of the revision, no blocks, one link, the owner; modification and change time equal
to the commit time of the ZBigFile object's own last change, to the microsecond. @<tid> itself has mode 0555 and the
time of tid, @<tid>/bigfile 0755 and no time. A file that is not there at a revision gives EINVAL.

Last line: "<n> files at <m> revisions, <k> differences"; exit status 1 when k > 0 or n == 0. Standard library only.
"""

import calendar
import errno
import json
import os
import stat
import sys


def time_ns(tid):
    """Commit time of a tid: minutes in calendar units since 1900 (each month has 31 days), then 2^-32 minutes."""
    high, low = int(tid[:8], 16), int(tid[8:], 16)
    minutes, rest = high % 60, high // 60
    hours, rest = rest % 24, rest // 24
    day, rest = rest % 31 + 1, rest // 31
    month, year = rest % 12 + 1, rest // 12 + 1900
    return calendar.timegm((year, month, day, hours, minutes, 0)) * 10**9 + low * 60 * 10**9 // 2**32


mnt, manifest, uid, gid = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with open(manifest) as f:
    m = json.load(f)
files = bad = 0


def expect(path, want):
    global bad
    s = os.stat(path)
    got = {"mode": s.st_mode, "uid": s.st_uid, "gid": s.st_gid, "size": s.st_size, "blksize": s.st_blksize,
           "blocks": s.st_blocks, "nlink": s.st_nlink, "mtime": s.st_mtime_ns, "ctime": s.st_ctime_ns}
    for key, value in want.items():
        near = 1000 if key.endswith("time") else 0
        if abs(got[key] - value) > near:
            bad += 1
            print("BAD", path, key, got[key], "expected", value)


owner = {"uid": uid, "gid": gid}
state, serial = {}, {}
for r in m["revisions"]:
    for name, d in r["files"].items():
        state[name] = None if d.get("deleted") else (d["size"], d["blksize"])
    for name, d in m["files"].items():
        if d["oid"] in r["oids"]:
            serial[name] = r["tid"]
    view = os.path.join(mnt, "@" + r["tid"])
    at = time_ns(r["tid"])
    expect(view, dict(owner, mode=stat.S_IFDIR | 0o555, mtime=at, ctime=at, size=0))
    expect(view + "/bigfile", dict(owner, mode=stat.S_IFDIR | 0o755, mtime=0, ctime=0, size=0))
    for name, d in m["files"].items():
        path = os.path.join(view, "bigfile", d["oid"])
        if state.get(name) is None:
            try:
                os.stat(path)
                bad += 1
                print("BAD", path, "exists")
            except OSError as e:
                if e.errno != errno.EINVAL:
                    bad += 1
                    print("BAD", path, e)
            continue
        size, blksize = state[name]
        t = time_ns(serial[name])
        expect(path, dict(owner, mode=stat.S_IFREG | 0o444, size=size, blksize=blksize, blocks=0, nlink=1,
                          mtime=t, ctime=t))
        files += 1

print("%d files at %d revisions, %d differences" % (files, len(m["revisions"]), bad))
sys.exit(1 if bad or not files else 0)
