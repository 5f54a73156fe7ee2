"""What RelStorage itself does, for tests of zring to compare with. A target is as tools/make_zodb.py has it, or a path.

  copy FROM TO       every transaction, with its tid; TO is made anew if it is a path
  pack TARGET        to now
"""

import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools"))

import ZODB  # noqa: E402
from make_zodb import open_storage  # noqa: E402


def copy(source, target):
    a = open_storage(source, read_only=True)
    b = open_storage(target, create=True)
    b.copyTransactionsFrom(a)
    b.close()
    a.close()


def pack(target):
    db = ZODB.DB(open_storage(target))
    db.pack(time.time())
    db.close()


if __name__ == "__main__":
    name, *rest = sys.argv[1:]
    {"copy": copy, "pack": pack}[name](*rest)
