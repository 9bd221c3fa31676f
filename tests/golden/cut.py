#!/usr/bin/env python3
"""Cuts the full set of golden vectors down to the one that is committed here.

    python3 tests/golden/cut.py FULL_SET_DIRECTORY [OUTPUT_DIRECTORY]

Small files are taken whole. From a large one whole cases are taken, up to about a budget of compressed bytes:

1. first the cases that cover every feature of the file at least twice (or as often as it occurs), always the case that
   adds the most missing features for its size. A feature is a field with its value, for texts and booleans, or with
   its sign, for numbers; a text counts when several cases share it, so names and keys do not;
2. then cases evenly spread over the rest.

The same input gives the same cases, in the order of the full set. Only Python's standard library is needed.
"""

import collections
import gzip
import json
import pathlib
import sys
import zlib

# Compressed bytes for the files that are too large to take whole.
BUDGET = {"decisions": 1_000_000, "windows": 350_000, "hash": 90_000}
# How often each feature is to be covered.
COVER = 2
# A text in fewer cases than this is a name, not a feature.
SHARED_BY = 5


def cases(path):
    """The lines of each case, in file order; a line without a case number is one of its own."""
    grouped = collections.OrderedDict()
    with gzip.open(path, "rb") as lines:
        for number, line in enumerate(lines):
            grouped.setdefault(json.loads(line).get("case", f"line {number}"), []).append(line)
    return list(grouped.values())


def features(lines):
    """Every field of a case with what is notable about its value; texts are kept apart."""
    plain, texts = set(), set()

    def visit(path, value):
        if isinstance(value, dict):
            for key, inner in value.items():
                visit(f"{path}.{key}", inner)
        elif isinstance(value, list):
            plain.add((path, "empty" if not value else "filled"))
            for inner in value:
                visit(path + "[]", inner)
        elif value is None or isinstance(value, bool):
            plain.add((path, value))
        elif isinstance(value, str):
            texts.add((path, value))
        else:
            plain.add((path, "zero" if value == 0 else "negative" if value < 0 else "positive"))

    for line in lines:
        fields = json.loads(line)
        operation = fields.get("op", "")
        for key, value in fields.items():
            if key not in ("case", "seed"):
                visit(f"{operation}.{key}", value)
    return plain, texts


def choose(all_cases, budget):
    """The indices of the cases to keep, ascending."""
    seen = [features(lines) for lines in all_cases]
    shared = collections.Counter(text for _, texts in seen for text in texts)
    seen = [plain | {text for text in texts if shared[text] >= SHARED_BY} for plain, texts in seen]
    cost = [len(zlib.compress(b"".join(lines), 9)) for lines in all_cases]
    missing = collections.Counter(feature for found in seen for feature in found)
    missing = {feature: min(COVER, times) for feature, times in missing.items()}

    chosen, spent = set(), 0
    while any(missing.values()):
        best = max(
            (index for index in range(len(all_cases)) if index not in chosen),
            key=lambda index: (sum(missing[feature] > 0 for feature in seen[index]) / cost[index], -index),
        )
        chosen.add(best)
        spent += cost[best]
        for feature in seen[best]:
            missing[feature] = max(0, missing[feature] - 1)
    rest = [index for index in range(len(all_cases)) if index not in chosen]
    # Every 2nd, 3rd, ... of what is left: the densest spread that still fits.
    for step in range(1, len(rest) + 1):
        spread = rest[step // 2 :: step]
        if spent + sum(cost[index] for index in spread) <= budget:
            chosen.update(spread)
            break
    return sorted(chosen)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    source = pathlib.Path(sys.argv[1])
    target = pathlib.Path(sys.argv[2]) if len(sys.argv) == 3 else pathlib.Path(__file__).parent
    for path in sorted(source.glob("*.jsonl.gz")):
        all_cases = cases(path)
        budget = BUDGET.get(path.name.split(".")[0])
        kept = choose(all_cases, budget) if budget else range(len(all_cases))
        text = b"".join(line for index in kept for line in all_cases[index])
        packed = gzip.compress(text, 9, mtime=0)
        (target / path.name).write_bytes(packed)
        lines = sum(len(all_cases[index]) for index in kept)
        print(f"{path.name}: {len(kept)} of {len(all_cases)} cases, {lines} lines, {len(packed)} bytes")


if __name__ == "__main__":
    main()
