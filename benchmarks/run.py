"""``make bench``: one size, several contenders, alternating; JSON, a Markdown table and plots are written.

python -m benchmarks.run --size tiny --contenders onnxruntime:fp32 openvino:bf16 --peer .venv-modelscope/bin/python
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from ofa_serving.contract import STAGES

from loadtest.servers import ServerError

from .arithmetic import gflop_a_caption
from .ceiling import ceilings
from .checkpoints import SIZES, config_of, write_random
from .contenders import Contender, ModelScope, Server
from .engines import measure_engines
from .images import write_images
from .load import measure_load
from .machine import describe, fast_precisions
from .report import write_report

BEAM = 5


def main() -> None:
    """Measures and writes the report."""
    flags = _flags()
    work = flags.work or Path(tempfile.mkdtemp(prefix="bench."))
    work = work / f"{flags.size}-{flags.image_size}"
    checkpoint = write_random(flags.size, work / "checkpoint", flags.image_size)
    images = write_images(work / "images", flags.images)
    invited: list[Contender] = [
        Server(checkpoint, *contender.split(":"), work, flags.concurrency, flags.device, images)
        for contender in flags.contenders
    ]
    if flags.peer:
        invited.append(ModelScope(checkpoint, flags.peer))
    with contextlib.ExitStack() as stack:
        contenders = [contender for contender in invited if _starts(contender, stack)]
        servers = [contender for contender in contenders if isinstance(contender, Server)]
        captions = {contender.name: contender.caption(images[0]) for contender in contenders}
        rounds = [_round(contenders, images, flags.repeats, number, flags.device) for number in range(flags.rounds)]
        results = {
            "command": " ".join(["python -m benchmarks.run", *sys.argv[1:]]),
            "date": datetime.date.today().isoformat(),
            "machine": describe(),
            "size": flags.size,
            "image_size": flags.image_size,
            "device": flags.device,
            "gflop_a_caption": round(gflop_a_caption(config_of(flags.size), flags.image_size, BEAM), 1),
            "ceiling_gflops": {
                precision: round(statistics.median(figures["ceilings"][precision] for figures in rounds), 1)
                for precision in rounds[0]["ceilings"]
            },
            "contenders": {
                contender.name: _summary(contender, rounds, _requests(contender, images, flags.repeats))
                for contender in contenders
            },
            "servers": {server.name: _server_figures(server, images) for server in servers},
            "load": {
                server.name: measure_load(server.served.grpc, server.model, images, flags.load_seconds, flags.device)
                for server in servers
            },
            "same_caption_as_first": {name: text == captions[contenders[0].name] for name, text in captions.items()},
        }
    _say("the engines alone")
    results["engines"] = {
        server.name: measure_engines(
            server.repository, server.model, flags.image_size, flags.device, flags.largest_batch
        )
        for server in servers
    }
    prefix = "" if flags.device == "cpu" else f"{flags.device}-"
    write_report(results, flags.output / f"{prefix}{flags.size}-{flags.image_size}")
    if len(contenders) < len(invited):
        sys.exit("not all contenders started: see above")


def _starts(contender: Contender, stack: contextlib.ExitStack) -> bool:
    """Whether it does; a run goes on without one that does not."""
    _say(f"starting {contender.name}")
    try:
        stack.enter_context(contender)
    except (ServerError, RuntimeError, OSError) as error:
        _say(f"{contender.name} does not start: {error}")
        return False
    return True


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--image-size", type=int, default=480)
    parser.add_argument("--device", choices=("cpu", "gpu", "host"), default="cpu", help="host: a GPU's engines without")
    cpu = ["onnxruntime:fp32", *(f"openvino:{precision}" for precision in fast_precisions())]
    parser.add_argument("--contenders", nargs="+", default=cpu, help="(default here: %(default)s)")
    parser.add_argument("--peer", type=Path, help="Python of an environment with ModelScope")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=8, help="in each round")
    parser.add_argument("--repeats", type=int, default=1, help="of the images, where throughput is a server's")
    parser.add_argument("--concurrency", type=int, default=8, help="requests in flight for throughput")
    parser.add_argument("--load-seconds", type=float, default=15, help="of each number of requests in flight")
    parser.add_argument("--largest-batch", type=int, default=64, help="of the engines alone; lower it for large models")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--work", type=Path, help="keeps checkpoints and engines here, for the next run")
    return parser.parse_args()


def _requests(contender: Contender, images: list[Path], repeats: int) -> list[Path]:
    """What it is asked for when its throughput is measured: a crowd takes the images several times over."""
    return images * (repeats if contender.concurrency > 1 else 1)


def _round(contenders: list[Contender], images: list[Path], repeats: int, number: int, device: str) -> dict:
    """Everybody once, in turn, and the machine's ceiling."""
    figures: dict = {"ceilings": ceilings(device)}
    for contender in contenders:
        latency = statistics.median(contender.latency(images[: len(images) // 2]))
        throughput = contender.throughput(_requests(contender, images, repeats))
        figures[contender.name] = (latency, throughput)
        _say(f"round {number + 1}: {contender.name}: {latency * 1e3:.0f} ms, {throughput:.2f} captions/s")
    return figures


def _summary(contender: Contender, rounds: list[dict], requests: list[Path]) -> dict[str, object]:
    latencies, throughputs = zip(*(figures[contender.name] for figures in rounds), strict=True)
    return {
        "latency_ms": round(statistics.median(latencies) * 1e3, 1),
        "latency_ms_least": round(min(latencies) * 1e3, 1),
        "latency_ms_most": round(max(latencies) * 1e3, 1),
        "captions_per_second": round(statistics.median(throughputs), 3),
        "requests_in_flight": min(contender.concurrency, len(requests)),
        "requests_a_round": len(requests),
        "precision": contender.precision,
        "versions": contender.versions,
    }


def _server_figures(server: Server, images: list[Path]) -> dict:
    seconds, stages = zip(*(server.stages(image) for image in images), strict=True)
    return {
        "start_seconds": round(server.served.start_seconds, 1),
        "resident_mib": server.resident_bytes() >> 20,
        "stages_ms": dict(zip(STAGES, np.median(stages, axis=0).round(1).tolist(), strict=True)),
        "latency_ms": round(statistics.median(seconds) * 1e3, 1),
    }


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
