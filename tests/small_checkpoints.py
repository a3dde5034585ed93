"""Copies of the golden checkpoints with fields changed, for tests of the readers."""

import json
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden" / "data"


def golden_checkpoint(case: str = "en-default") -> Path:
    return GOLDEN / case / "checkpoint"


def copy_checkpoint(
    directory: Path, case: str = "en-default", config: dict | None = None, configuration: dict | None = None
) -> Path:
    """Link a golden checkpoint's files into ``directory``, and put other values over those of its two JSON files."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in golden_checkpoint(case).iterdir():
        (directory / path.name).symlink_to(path)
    for name, changes in (("config.json", config), ("configuration.json", configuration)):
        if changes:
            replace_json(directory / name, _merged(json.loads((directory / name).read_text("utf-8")), changes))
    return directory


def replace_json(path: Path, value: object) -> None:
    """Write a file in the place of a link."""
    path.unlink(missing_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def _merged(values: dict, changes: dict) -> dict:
    return values | {
        name: _merged(values.get(name, {}), change) if isinstance(change, dict) else change
        for name, change in changes.items()
    }
