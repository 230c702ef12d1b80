"""A bare FastAPI handler with the `q_values` of an agent, for scripts/bench_serving.py.

It answers the binary request that rlarcade answers: it parses it, and calls `q_values`.
"""

import argparse
import json

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response

from rlarcade import DQNAgent, OnnxValues


def main() -> None:
    """Serves until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--checkpoint", help="an agent's checkpoint")
    given.add_argument("--onnx", help="an agent's ONNX file")
    parser.add_argument("--port", type=int, required=True)
    flags = parser.parse_args()
    if flags.onnx is None:
        agent: DQNAgent | OnnxValues = DQNAgent.load(flags.checkpoint)
    else:
        agent = OnnxValues.load(flags.onnx)
    agent.q_values(np.zeros((1, 4, 84, 84), dtype=np.uint8))
    app = FastAPI()

    @app.post("/infer")
    async def infer(request: Request) -> Response:
        body = await request.body()
        length = int(request.headers["inference-header-content-length"])
        json.loads(body[:length])
        observation = np.frombuffer(body, np.uint8, offset=length).reshape(1, 4, 84, 84)
        values = agent.q_values(observation)
        return Response(values.argmax(axis=1).tobytes() + values.tobytes())

    uvicorn.run(app, port=flags.port, log_level="warning", loop="uvloop", http="httptools")


if __name__ == "__main__":
    main()
