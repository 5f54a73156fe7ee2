#!/usr/bin/env python3
"""cut_manifest.py MANIFEST TID OUT - the manifest without the revisions after TID.

Files that did not exist yet stay in the list of oids; nothing asks for them. Only the standard library is used.
"""

import json
import sys

source, tid, target = sys.argv[1:]
with open(source) as f:
    m = json.load(f)
m["revisions"] = [r for r in m["revisions"] if r["tid"] <= tid]
with open(target, "w") as f:
    json.dump(m, f, separators=(",", ":"))
