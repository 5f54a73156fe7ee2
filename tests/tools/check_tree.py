#!/usr/bin/env python3
"""Compares `zring tree` with a manifest of make_zodb.py: check_tree.py ZRING DATABASE MANIFEST

The text of a table must have the keys that the manifest has, at every revision. A difference of two revisions must name every
block whose content differs, and none that no transaction between them set or deleted. The graph must have a node for every
node of the text.
"""
import json
import random
import re
import subprocess
import sys

zring, database, manifest = sys.argv[1:]
manifest = json.load(open(manifest))
revisions = manifest["revisions"]
wrong = checked = 0


def tree(*args):
    run = subprocess.run([zring, "tree", "file://" + database, *args], capture_output=True, text=True, timeout=60)
    if run.returncode:
        sys.exit(f"zring tree {args}: {run.stderr}")
    return run.stdout


def check(good, *what):
    global wrong, checked
    checked += 1
    if not good:
        wrong += 1
        print(*what)


def state(name, upto):
    """Blocks of a file after revision `upto`: number to content."""
    blocks = {}
    for revision in revisions[: upto + 1]:
        change = revision["files"].get(name)
        if change:
            if change["reset"]:
                blocks = {}
            blocks.update(change["set"])
            for block in change["del"]:
                blocks.pop(str(block), None)
    return blocks


rng = random.Random(1)
pairs = [(i, i + 1) for i in range(len(revisions) - 1)]
pairs += [tuple(sorted(rng.sample(range(len(revisions)), 2))) for _ in range(10)]
for name, file in manifest["files"].items():
    for i, revision in enumerate(revisions):
        text = tree(file["oid"], "--at", revision["tid"])
        leaves = [node for node in re.split("[-/]", text.strip()) if node.startswith("B")]
        keys = {entry.split(":")[0] for leaf in leaves for entry in leaf[1:].split(",") if entry != ":"}
        check(keys == set(state(name, i)), name, revision["tid"], "keys", keys ^ set(state(name, i)))
    graph = tree(file["oid"], "--dot")
    nodes = len(re.split("[-/]", tree(file["oid"]).strip()))
    check(graph.count("[label=") == nodes and graph.count("->") == nodes - 1, name, "graph", graph)
    for a, b in pairs:
        between = [r["files"][name] for r in revisions[a + 1 : b + 1] if name in r["files"]]
        may = {str(block) for change in between for block in [*change["set"], *change["del"]]}
        old, new = state(name, a), state(name, b)
        must = {block for block in old.keys() | new.keys() if old.get(block) != new.get(block)}
        text = tree(file["oid"], "--diff", revisions[a]["tid"], revisions[b]["tid"])
        named = {line.split()[0][1:] for line in text.splitlines() if line.startswith("#")}
        exact = any(change["reset"] for change in between) or named <= may
        check(must <= named and exact, name, a, b, "left out", must - named, "in vain", named - may)
print(f"{checked} checks, {wrong} wrong")
sys.exit(wrong != 0)
