"""OpenVINO in a process that has other things to do."""

import os
import subprocess
import sys

PROGRAM = """
import os, signal, threading
from pathlib import Path
import onnx
from onnx import TensorProto, helper
from ofa_serving.engines.openvino import OpenVinoEncoder

def value(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])

graph = helper.make_graph([helper.make_node("Relu", ["pixels"], ["hidden"])], "g", [value("pixels")], [value("hidden")])
onnx.save(helper.make_model(graph), "model.onnx")
engines = [OpenVinoEncoder(Path(), 1, "fp32")]
last = threading.Thread(target=engines.clear)
last.start()
last.join()
signal.signal(signal.SIGCHLD, lambda *_: print("heard", flush=True))
child = os.fork()
if not child:
    os._exit(0)
os.waitpid(child, 0)
"""

LOADING = "import ofa_serving.engines.openvino; print('loaded')"


def run(program, folder):
    command = [sys.executable, "-c", program]
    environment = os.environ | {"HOME": str(folder)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_signals_still_arrive_after_another_thread_let_the_last_engine_go(tmp_path):
    result = run(PROGRAM, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "heard\n", result.stderr


def test_loading_it_starts_no_process_and_reports_nothing(tmp_path):
    """OpenVINO's telemetry forks, and keeps an id and statistics in the home folder."""
    result = run(
        "import sys; sys.addaudithook(lambda event, _: event == 'os.fork' and print(event)); " + LOADING, tmp_path
    )
    assert (result.returncode, result.stdout) == (0, "loaded\n"), result.stderr
    assert not (tmp_path / "intel").exists()
