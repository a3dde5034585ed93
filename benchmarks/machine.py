"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from ofa_build.choice import INSTRUCTIONS, cpu_instructions
from ofa_serving.cores import usable_cores
from ofa_serving.host import installed_version, visible_gpu

PACKAGES = ("onnxruntime", "openvino", "tensorrt", "cupy-cuda13x", "torch", "numpy", "pillow", "nvidia-pytriton")


def describe() -> dict[str, object]:
    """Processor, cores, memory, the GPU if there is one, and the versions that matter of what is installed."""
    gpu = visible_gpu()
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), platform.processor())
    flags = next((line.split(":")[1].split() for line in info if line.startswith("flags")), [])
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    return {
        "processor": model,
        "cores": usable_cores(),
        "instructions": [flag for flag in wanted if flag in flags],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "gpu": gpu.name if gpu else None,
        "versions": {package: found for package in PACKAGES if (found := installed_version(package))},
    }


def fast_precisions() -> list[str]:
    """What this CPU has instructions for, beside fp32."""
    return [precision for precision, any_of in INSTRUCTIONS.items() if any_of & cpu_instructions()]
