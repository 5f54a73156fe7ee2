"""What ZODB itself says of a FileStorage, for tests/compat/filestorage.rs to compare with.

  dump PATH          one line per transaction ("txn tid oid,oid,...") and per question, for up to 60 transactions
                     ("load oid at none|gone|<serial> <sha1 of data>")
  index PATH         whether the saved index is taken: "index used" or "index ignored"
  vanish PATH        commit an object that nothing refers to, delete it again, and pack:
                     both transactions are gone afterwards; prints their tids
  pack PATH          pack to now, beside whatever else goes on, and close
  work PATH N        open, commit N small transactions, undo one, pack, commit one, close
"""

import hashlib
import logging
import sys
import time

import transaction
import ZODB
from persistent.mapping import PersistentMapping
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.POSException import POSKeyError
from ZODB.utils import p64, u64


def answer(storage, oid, at):
    try:
        found = storage.loadBefore(oid, p64(u64(at) + 1))
    except POSKeyError:
        return "gone"
    if found is None:
        return "none"
    return "%s %s" % (found[1].hex(), hashlib.sha1(found[0]).hexdigest())


def dump(path):
    with open(path, "rb") as f:         # ZODB reads only the magic of its own Python
        sys.modules[FileStorage.__module__].packed_version = f.read(4)
    storage = FileStorage(path, read_only=True)
    tids, oids = [], []
    for txn in storage.iterator():
        mine = []
        for record in txn:
            if record.oid not in mine:
                mine.append(record.oid)
        print("txn", txn.tid.hex(), ",".join(o.hex() for o in mine))
        tids.append(txn.tid)
        oids.extend(mine)
    step = 1 + len(tids) // 60
    for oid in sorted(set(oids)):
        for tid in tids[::step] + tids[-1:]:
            for at in (p64(u64(tid) - 1), tid):
                print("load", oid.hex(), at.hex(), answer(storage, oid, at))
    storage.close()


def index(path):
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("ZODB.FileStorage").addHandler(handler)
    FileStorage(path, read_only=True).close()
    print("index ignored" if said else "index used", said)


def vanish(path):
    storage = FileStorage(path)
    db = ZODB.DB(storage)
    conn = db.open()
    orphan = PersistentMapping({"refers": "to nothing"})
    conn.add(orphan)
    conn.transaction_manager.commit()
    print(storage.lastTransaction().hex())
    oid, serial = orphan._p_oid, orphan._p_serial
    conn.close()
    t = TransactionMetaData()
    storage.tpc_begin(t)
    storage.deleteObject(oid, serial, t)
    storage.tpc_vote(t)
    print(storage.tpc_finish(t).hex())
    sys.stdout.flush()
    time.sleep(0.3)
    db.pack(time.time())
    db.close()


def pack(path):
    db = ZODB.DB(FileStorage(path))
    db.pack(time.time())
    db.close()


def work(path, n):
    db = ZODB.DB(FileStorage(path))
    conn = db.open()
    root = conn.root()
    for i in range(n):
        root["n"] = PersistentMapping({"i": i, "pad": b"x" * (i % 700)})
        root["k%d" % (i % 7)] = i
        conn.transaction_manager.commit()
    db.undo(db.undoLog(0, 1)[0]["id"], transaction.get())
    transaction.commit()
    conn.sync()
    db.pack(time.time())
    root["after"] = "pack"
    conn.transaction_manager.commit()
    conn.close()
    db.close()


if __name__ == "__main__":
    name, path, *rest = sys.argv[1:]
    {"dump": dump, "index": index, "vanish": vanish, "pack": pack, "work": work}[name](
        path, *map(int, rest))
