"""What one writes first: PyTriton around the PyTorch model. Its batches are static: formed once, searched to the end.

python -m benchmarks.pytriton_server CHECKPOINT HTTP_PORT GRPC_PORT
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from ofa_build.checkpoint import load_checkpoint
from ofa_build.evaluation.captioners import TorchCaptioner
from ofa_serving.images import load_pixels
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

NAME = "plain"
MAX_BATCH_SIZE = 16
MAX_DELAY_MICROSECONDS = 20_000


def main() -> None:
    """Serves until it is ended."""
    captioner = TorchCaptioner.load(load_checkpoint(sys.argv[1]), torch.device("cpu"))
    size = captioner.settings.patch_image_size

    @batch
    def infer(image: np.ndarray) -> dict[str, np.ndarray]:
        pixels = np.stack([load_pixels(data, size) for data in image.reshape(-1)])
        captions = [[caption.encode()] for caption in captioner.captions(pixels)]
        return {"caption": np.array(captions, dtype=object)}

    ports = {"http_port": int(sys.argv[2]), "grpc_port": int(sys.argv[3]), "allow_metrics": False}
    with Triton(config=TritonConfig(**ports, http_address="127.0.0.1", grpc_address="127.0.0.1")) as triton:
        triton.bind(
            model_name=NAME,
            infer_func=infer,
            inputs=[Tensor(name="image", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="caption", dtype=bytes, shape=(1,))],
            config=ModelConfig(
                max_batch_size=MAX_BATCH_SIZE,
                batcher=DynamicBatcher(max_queue_delay_microseconds=MAX_DELAY_MICROSECONDS),
            ),
        )
        triton.serve()


if __name__ == "__main__":
    main()
