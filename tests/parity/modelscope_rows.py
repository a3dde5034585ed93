"""Runs in ModelScope's environment: reads an MsDataset's and a datasets object's rows as this project's records.

modelscope_rows.py FOLDER: prints one JSON object of lists of [caption, bytes of the image].
"""

import json
import sys

from modelscope_peer import prepare


def main(folder):
    library = prepare()
    import datasets
    from modelscope.msdatasets import MsDataset
    from ofa_build.data import open_data

    rows = datasets.load_dataset("csv", data_files=f"{folder}/rows.csv", split="train")
    pictures = rows.cast_column("picture", datasets.Image())
    columns = {"image": "picture", "text": "said"}
    sources = {
        "datasets": open_data(pictures, columns=columns),
        "MsDataset": open_data(MsDataset(rows), columns=columns),
    }
    stream = open_data(pictures.to_iterable_dataset(), columns=columns, streaming=True)
    records = {name: data.records for name, data in sources.items()} | {"streaming": list(stream.open())}
    found = {name: [[one.captions[0], len(one.read()) > 0] for one in own] for name, own in records.items()}
    print(json.dumps(found))
    del library


if __name__ == "__main__":
    main(*sys.argv[1:])
