"""What got slower between two result files: `python -m benchmarks.compare_results OLD NEW`.

A row is slower when its lower quartile in NEW lies above its upper quartile in OLD: beyond the
spread of both. A ratio to a peer is worse when its upper quartile fell below OLD's lower one; on
a noisy machine it is the better witness. Exits 1 where anything is slower or worse, 2 where a file
cannot be read.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks import results
from jaxgen.errors import UserError


def slower_rows(old: dict[str, Any], new: dict[str, Any]) -> list[list[str]]:
    """Name, old and new seconds, and their ratio, of each row that got slower beyond its spread."""
    before = {results.row_name(row): row["seconds"] for row in old["rows"]}
    found = []
    for row in new["rows"]:
        name, now = results.row_name(row), row["seconds"]
        then = before.get(name)
        if then and now["lower"] > then["upper"]:
            times = now["median"] / then["median"]
            found.append([name, f"{then['median']:.3g}", f"{now['median']:.3g}", f"{times:.2f}x"])
    return found


def worse_ratios(old: dict[str, Any], new: dict[str, Any]) -> list[list[str]]:
    """The same of the ratios to peers."""

    def name(entry: dict[str, Any]) -> str:
        return f"{entry['suite']} | {entry['case']} | {entry['faster']} over {entry['slower']}"

    before = {name(entry): entry["times"] for entry in old["ratios"]}
    found = []
    for entry in new["ratios"]:
        then, now = before.get(name(entry)), entry["times"]
        if then and now["upper"] < then["lower"]:
            times = now["median"] / then["median"]
            values = [f"{then['median']:.3g}", f"{now['median']:.3g}", f"{times:.2f}x"]
            found.append([name(entry), *values])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    args = parser.parse_args()
    try:
        old, new = results.read(args.old), results.read(args.new)
        for path, data in ((args.old, old), (args.new, new)):
            if "rows" not in data or "ratios" not in data:
                raise UserError(f"{path} is of the kind {data['kind']!r}, which has no rows")
        slower, worse = slower_rows(old, new), worse_ratios(old, new)
    except (UserError, KeyError, TypeError) as error:
        broken = "" if isinstance(error, UserError) else "a row is incomplete: "
        print(f"error: {broken}{error}", file=sys.stderr)
        return 2
    for key in ("device", "platform", "cores"):
        if old["machine"].get(key) != new["machine"].get(key):
            print(f"note: {key} differs: {old['machine'].get(key)}, {new['machine'].get(key)}")
    shared = {results.row_name(r) for r in old["rows"]} & {results.row_name(r) for r in new["rows"]}
    if slower:
        print(results.table(["slower", "old s", "new s", "new/old"], slower))
    if worse:
        print(results.table(["fell behind", "old", "new", "new/old"], worse))
    print(f"{len(shared)} rows in both files: {len(slower)} slower, {len(worse)} ratios worse")
    return 1 if slower or worse else 0


if __name__ == "__main__":
    sys.exit(main())
