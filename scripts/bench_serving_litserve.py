"""LitServe with the `q_values` of an agent, for scripts/bench_serving.py.

It answers the binary request that rlarcade answers. LitServe itself decodes JSON only, so the body
is taken from FastAPI, on which it is built.
"""

import argparse
from typing import Annotated

import litserve
import numpy as np
from fastapi import Depends, Request, Response

from rlarcade import DQNAgent

SHAPE = (4, 84, 84)


async def tensor_of(request: Request) -> bytes:
    """Returns the bytes of the tensor, without the JSON before it."""
    body = await request.body()
    return body[int(request.headers["inference-header-content-length"]) :]


class Values(litserve.LitAPI):
    """From one observation to its action and values."""

    checkpoint: str

    def setup(self, device: str) -> None:
        """Loads the agent, and computes each size of batch once."""
        del device
        self.agent = DQNAgent.load(self.checkpoint)
        for rows in range(1, max(self.max_batch_size, 1) + 1):
            self.agent.q_values(np.zeros((rows, *SHAPE), dtype=np.uint8))

    def decode_request(self, request: Annotated[bytes, Depends(tensor_of)]) -> np.ndarray:
        """Returns an observation, uint8 (4, 84, 84)."""
        return np.frombuffer(request, np.uint8).reshape(SHAPE)

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Returns uint8 (N, 4, 84, 84)."""
        return np.stack(inputs)

    def predict(self, observations: np.ndarray) -> np.ndarray:
        """Returns float32 (N, A)."""
        return self.agent.q_values(observations.reshape(-1, *SHAPE))

    def unbatch(self, values: np.ndarray) -> list[np.ndarray]:
        """Returns the values of each observation, float32 (1, A)."""
        return list(values[:, None])

    def encode_response(self, values: np.ndarray) -> Response:
        """Returns the action, int64, and the values."""
        return Response(values.argmax(axis=1).tobytes() + values.tobytes())


def main() -> None:
    """Serves until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True, help="its largest batch")
    parser.add_argument("--wait", type=float, required=True, help="longest wait for it, seconds")
    parser.add_argument("--workers", type=int, required=True)
    flags = parser.parse_args()
    api = Values(max_batch_size=flags.batch, batch_timeout=flags.wait, api_path="/infer")
    api.checkpoint = flags.checkpoint
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=flags.workers, timeout=False, fast_queue=True
    )
    server.run(host="127.0.0.1", port=flags.port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
