"""A LitServe service whose workers start armed.

python examples/save_plans.py image_model.plans
MODEL_PLANS=image_model.plans python examples/litserve_server.py 8000
curl -X POST localhost:8000/predict -H 'Content-Type: application/json' -d '{"seed": 3}'
"""

from __future__ import annotations

import os
import sys
from typing import Any

import litserve
import torch
from image_model import build, images

import memomalloc


class ImageAPI(litserve.LitAPI):
    """Each worker process builds its model in ``setup``; the plans come from the file."""

    def setup(self, device: str) -> None:
        """Once a worker."""
        self.model = memomalloc.optimize(build(), plans=os.environ.get("MODEL_PLANS"))

    def decode_request(self, request) -> torch.Tensor:  # type: ignore[no-untyped-def]  # an annotation means a query
        """What was posted, as JSON."""
        return images(request["seed"])

    def predict(self, request: torch.Tensor) -> torch.Tensor:
        """Scores."""
        with torch.inference_mode():
            return self.model(request)

    def encode_response(self, output: torch.Tensor) -> dict[str, Any]:
        """What is answered, with what this worker served so far."""
        return {
            "classes": output.argmax(dim=1).tolist(),
            "process": os.getpid(),
            "replayed": self.model.stats().runs_replayed,
            "recorded": self.model.stats().runs_recorded,
        }


if __name__ == "__main__":
    server = litserve.LitServer(ImageAPI(), accelerator="cpu", workers_per_device=2)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, num_api_servers=1)
