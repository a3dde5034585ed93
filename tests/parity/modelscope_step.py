"""Runs in ModelScope's environment: one training step's loss and gradients, by its own trainer's parts.

    modelscope_step.py CHECKPOINT OUT.npz CAPTIONS.json IMAGE...

The checkpoint's dropout and drop-path are 0; the model is in training mode, so batch norms use the batch.
"""

import json
import sys
from pathlib import Path

import numpy as np
from modelscope_peer import prepare


class Arguments(dict):
    """What the criterion reads by name and by key."""

    __getattr__ = dict.__getitem__


def main(checkpoint, out, captions, *images):
    library = prepare()
    from modelscope.models import Model
    from modelscope.preprocessors.multi_modal import OfaPreprocessor
    from modelscope.preprocessors.ofa.utils.collate import collate_fn
    from modelscope.trainers.multi_modal.ofa.ofa_trainer_utils import AdjustLabelSmoothedCrossEntropyCriterion

    model = Model.from_pretrained(checkpoint)
    model.model.float().train()
    preprocessor = OfaPreprocessor(model_dir=checkpoint, mode="train", no_collate=True)
    texts = json.loads(Path(captions).read_text())
    samples = [preprocessor({"image": image, "caption": text}) for image, text in zip(images, texts, strict=True)]
    tokenizer = model.tokenizer
    batch = collate_fn(samples, pad_idx=tokenizer.pad_token_id, eos_idx=tokenizer.eos_token_id)
    published = {"label_smoothing": 0.1, "drop_worst_ratio": 0.2, "drop_worst_after": 0, "tokenizer": tokenizer}
    criterion = AdjustLabelSmoothedCrossEntropyCriterion(Arguments(published))
    result = {}
    for name, update in (("plain", 0), ("dropped", 1)):
        model.model.zero_grad()
        output = model.model(**batch["net_input"])
        loss, nll, tokens = criterion.compute_loss(output.logits, batch, update)
        loss.backward()
        result |= {f"{name}/loss": loss.item(), f"{name}/nll": nll.item(), f"{name}/tokens": tokens}
        for parameter, weight in model.model.named_parameters():
            if weight.grad is not None:
                result[f"{name}/gradient/{parameter}"] = weight.grad.numpy().copy()
    np.savez(out, target=batch["target"].numpy(), pixels=batch["net_input"]["patch_images"].numpy(), **result)
    del library


if __name__ == "__main__":
    main(*sys.argv[1:])
