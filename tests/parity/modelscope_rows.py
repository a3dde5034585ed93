"""Runs in ModelScope's environment: reads an MsDataset's and a datasets object's rows as this project's records.

modelscope_rows.py FOLDER CHECKPOINT: prints one JSON object: of each kind of object [caption, bytes of the image or
not] by row, where the last row's picture is damaged; and of streams whether two workers read what none does.
"""

import json
import sys
from pathlib import Path

from modelscope_peer import prepare


def main(folder, checkpoint):
    library = prepare()
    import datasets
    from modelscope.msdatasets import MsDataset
    from ofa_build.checkpoint import load_checkpoint
    from ofa_build.data import open_data
    from ofa_build.data.batches import Batches, Encoding, Share

    paths = datasets.load_dataset("csv", data_files=f"{folder}/rows.csv", split="train")
    files = [{"bytes": Path(path).read_bytes(), "path": None} for path in paths["picture"]]
    files[-1]["bytes"] = files[-1]["bytes"][:100]
    rows = datasets.Dataset.from_dict({"picture": files, "said": paths["said"]})
    pictures = rows.cast_column("picture", datasets.Image())
    columns = {"image": "picture", "text": "said"}
    sources = {
        "datasets": open_data(pictures, columns=columns),
        "MsDataset": open_data(MsDataset(pictures), columns=columns),
        "MsDataset of paths": open_data(MsDataset(paths), columns=columns),
    }
    stream = open_data(pictures.to_iterable_dataset(), columns=columns, streaming=True)
    records = {name: data.records for name, data in sources.items()} | {"streaming": list(stream.open())}
    found = {name: [[one.captions[0], len(one.read()) > 0] for one in own] for name, own in records.items()}
    encoding = Encoding(load_checkpoint(checkpoint).tokenizer, image_size=32, max_words=20, max_tokens=64)
    for shards in (1, 2):
        keys = []
        for workers in (0, 2):
            data = open_data(pictures.to_iterable_dataset(num_shards=shards), columns=columns, streaming=True)
            batches = Batches(data, encoding, Share(batch_size=2), workers=workers)
            keys.append([batch.keys for update in batches.updates(0, 6) for batch in update])
        found[f"{shards} shards"] = keys[0] == keys[1]
    print(json.dumps(found))
    del library


if __name__ == "__main__":
    main(*sys.argv[1:])
