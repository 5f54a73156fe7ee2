"""The peer: Python ZODB activating the objects of cold ZBlk1 blocks, one after the other.

    zodb_blocks.py DATABASE FILE BLOCK...     prints the microseconds of each block

Stand-ins take the place of the classes of wendelin.core: what is measured is loading, unpickling and joining.
"""
import sys
import time
import types

import BTrees.IOBTree  # noqa: F401  (imported before the clock starts)
import BTrees.LOBTree  # noqa: F401
from persistent import Persistent
from ZODB import DB
from ZODB.FileStorage import FileStorage


class Whole(Persistent):
    """Its state is not a dictionary."""

    def __setstate__(self, state):
        self.v = state


def define(module, name, base):
    found = sys.modules.get(module)
    if found is None:
        found = sys.modules[module] = types.ModuleType(module)
    cls = type(name, (base,), {"__module__": module})
    setattr(found, name, cls)


for package in ("wendelin", "wendelin.bigfile"):
    sys.modules[package] = types.ModuleType(package)
for name in ("ZBigFile", "ZBlk0", "ZBlk1", "ZData"):
    define("wendelin.bigfile.file_zodb", name, Whole)


def main(path, name, *blocks):
    db = DB(FileStorage(path, read_only=True), cache_size=1_000_000)
    connection = db.open()
    file = connection.root()[name]
    file._p_activate()
    blksize, blktab = file.v
    for block in map(int, blocks):
        blk = blktab[block]
        start = time.perf_counter()
        blk._p_activate()
        out = bytearray(blksize)
        for at, chunk in blk.v.items():
            chunk._p_activate()
            out[at:at + len(chunk.v)] = chunk.v
        print("python %.1f" % ((time.perf_counter() - start) * 1e6))
        connection.cacheMinimize()
    db.close()


main(*sys.argv[1:])
