#!/usr/bin/env python3
"""Writes the samples of this directory: every object of a small database, and what its file must read as.

    make_records.py GENERATOR OUTDIR

GENERATOR is the path of the database generator (make_zodb.py). One sample per flavour of pickle, all integers
big-endian:

    u32 objects   { u64 oid, u32 len, record }      newest revision of each
    u64 oid of the ZBigFile, u32 blksize
    u32 blocks    { u64 blk, u32 len, data }        data without trailing zeros
"""

import importlib.util
import os
import struct
import sys
import tempfile

FLAVOURS = [("py3", 3), ("py3", 2), ("py3", 1), ("py2", 3), ("py2", 2), ("py2", 1)]


def main(generator, outdir):
    flavour = os.environ.get("FLAVOUR")
    if flavour is None:     # one process each: the generator patches ZODB
        for style, proto in FLAVOURS:
            env = dict(os.environ, FLAVOUR="%s %d" % (style, proto), PYTHONHASHSEED="0")
            if os.spawnle(os.P_WAIT, sys.executable, sys.executable, __file__, generator, outdir, env):
                sys.exit("failed: %s %s" % (style, proto))
        return
    style, proto = flavour.split()
    spec = importlib.util.spec_from_file_location("make_zodb", generator)
    gen = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gen)
    gen.CHUNK = 96
    with tempfile.TemporaryDirectory() as tmp:
        fs = tmp + "/t.fs"
        sys.argv = ["make_zodb.py", "gen", "--target", fs, "--manifest", tmp + "/m.json", "--files", "1",
                    "--blocks", "70", "--blksize", "320", "--fmt", "mixed", "--txns", "12", "--rng", "python",
                    "--pickle", proto, "--style", style, "--w-topology", "6", "--w-epoch", "0", "--seed", "7"]
        gen.main()
        dump(gen, fs, tmp + "/m.json", "%s/%s-p%s.bin" % (outdir, style, proto))


def dump(gen, fs, manifest, out):
    import json
    import transaction
    import ZODB
    with open(manifest) as f:
        (name, info), = json.load(f)["files"].items()
    storage = gen.open_storage(fs, read_only=True)
    records, nxt = [], None
    while True:
        oid, _, data, nxt = storage.record_iternext(nxt)
        records.append((oid, data))
        if nxt is None:
            break
    conn = ZODB.DB(storage).open(transaction.TransactionManager())
    oid = bytes.fromhex(info["oid"])
    zf = conn.get(oid)
    with open(out, "wb") as f:
        f.write(struct.pack(">I", len(records)))
        for roid, data in records:
            f.write(roid + struct.pack(">I", len(data)) + data)
        items = list(zf.blktab.items())
        f.write(oid + struct.pack(">II", zf.blksize, len(items)))
        for blk, z in items:
            data = z.get().rstrip(b"\0")
            f.write(struct.pack(">QI", blk, len(data)) + data)
    print(out, len(records), "objects", len(items), "blocks", os.path.getsize(out), "bytes")


main(*sys.argv[1:])
