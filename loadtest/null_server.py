"""``python -m loadtest.null_server``: answers every request at once with the same caption, over gRPC and HTTP.

What a load generator reaches against it is the generator's own limit. It prints its two URLs, and ends with its input.
"""

from __future__ import annotations

import asyncio
import struct
import sys

import grpc
from aiohttp import web
from tritonclient.grpc import service_pb2, service_pb2_grpc

CAPTION = b"a caption of nothing"


class _Service(service_pb2_grpc.GRPCInferenceServiceServicer):
    async def ModelInfer(self, request: service_pb2.ModelInferRequest, context: object) -> object:
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        answer.outputs.add(name="caption", datatype="BYTES", shape=[1, 1])
        answer.outputs.add(name="score", datatype="FP32", shape=[1, 1])
        answer.raw_output_contents.extend([struct.pack("<I", len(CAPTION)) + CAPTION, struct.pack("<f", -1)])
        return answer


async def _infer(request: web.Request) -> web.Response:
    await request.read()
    outputs = [
        {"name": "caption", "datatype": "BYTES", "shape": [1, 1], "data": [CAPTION.decode()]},
        {"name": "score", "datatype": "FP32", "shape": [1, 1], "data": [-1.0]},
    ]
    return web.json_response({"model_name": request.match_info["model"], "outputs": outputs})


async def _serve() -> None:
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Service(), server)
    grpc_port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    application = web.Application(client_max_size=2**30)
    application.router.add_post("/v2/models/{model}/infer", _infer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    http_port = runner.addresses[0][1]
    sys.stdout.write(f"grpc://127.0.0.1:{grpc_port} http://127.0.0.1:{http_port}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(_serve())
