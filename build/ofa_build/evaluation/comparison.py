"""Sets evaluations of several seeds side by side: ``python -m ofa_build.evaluation.comparison NAME=FOLDER...``."""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

EXACT = "exactly a reference"


def compare(reports: Mapping[str, Sequence[Mapping]]) -> str:
    """Give a Markdown table: a line a name, every score's mean over its reports and, of several, their range."""
    scores = {name: _scores(own) for name, own in reports.items()}
    columns = list(dict.fromkeys(column for own in scores.values() for column in own))
    lines = [f"| | runs | images | {' | '.join(columns)} |", f"|---{'|---' * (len(columns) + 2)}|"]
    for name, own in scores.items():
        cells = [_cell(own[column]) if column in own else "" for column in columns]
        images = ", ".join(sorted({str(report["images"]) for report in reports[name]}))
        lines.append(f"| {name} | {len(reports[name])} | {images} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _scores(reports: Sequence[Mapping]) -> dict[str, list[float]]:
    """Give each score's values, in the hundreds that papers write."""
    values: dict[str, list[float]] = defaultdict(list)
    for report in reports:
        for column, value in {**report["scores"], EXACT: report["exact"]}.items():
            values[column].append(100 * value)
    return dict(values)


def _cell(values: Sequence[float]) -> str:
    middle = f"{mean(values):.1f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    text = "folders of ofa-build evaluate; one name again is another seed"
    parser.add_argument("reports", nargs="+", metavar="NAME=FOLDER", help=text)
    reports: dict[str, list[Mapping]] = defaultdict(list)
    for text in parser.parse_args().reports:
        name, equals, folder = text.partition("=")
        if not equals:
            parser.error(f"{text} is not NAME=FOLDER")
        path = Path(folder, "scores.json")
        try:
            reports[name].append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            parser.error(f"there is no report of ofa-build evaluate in {path}")
    sys.stdout.write(compare(reports))


if __name__ == "__main__":
    main()
