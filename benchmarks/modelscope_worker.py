"""Runs in ModelScope's environment: captions the image files named on standard input, a JSON line each."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "parity"))

import modelscope_peer

library = modelscope_peer.prepare()

from modelscope.pipelines import pipeline  # noqa: E402
from modelscope.utils.constant import Tasks  # noqa: E402

captioner = pipeline(Tasks.image_captioning, model=sys.argv[1])
captioner.model.model.float()
print(json.dumps({"ready": {name: version(name) for name in ("modelscope", "torch")}}), flush=True)
for line in sys.stdin:
    caption = captioner(line.strip())["caption"]
    print(json.dumps({"caption": caption[0] if isinstance(caption, list) else caption}), flush=True)
