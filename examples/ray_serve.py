"""Ray Serve with several replicas: one process learns, Ray's object store carries the plans, replicas start armed.

python examples/ray_serve.py
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import ray
from ray import serve

NUM_REPLICAS = 2


@ray.remote
def learn_plans() -> bytes:
    """Run where the model runs: plans are made for the torch and the processor of this machine."""
    import torch
    from image_model import build, images

    import memomalloc

    with torch.inference_mode():
        model = memomalloc.optimize(build(), example_inputs=images(0))
    plans = io.BytesIO()
    model.save_plans(plans)
    return plans.getvalue()


@serve.deployment(num_replicas=NUM_REPLICAS, ray_actor_options={"num_cpus": 0.5}, max_ongoing_requests=4)
class ImageService:
    """A replica: takes the plans from the object store as it starts."""

    def __init__(self, plans: list[Any]) -> None:
        from image_model import build

        import memomalloc

        self.model = memomalloc.optimize(build(), plans=io.BytesIO(ray.get(plans[0])))

    def __call__(self, seed: int) -> dict[str, Any]:
        """Answer a request."""
        import torch
        from image_model import images

        with torch.inference_mode():
            classes = self.model(images(seed)).argmax(dim=1).tolist()
        stats = self.model.stats()
        return {
            "classes": classes,
            "process": os.getpid(),
            "replayed": stats.runs_replayed,
            "recorded": stats.runs_recorded,
            "upstream": sum(stats.requests_upstream.values()),
        }


def main(num_requests: str = "40") -> None:
    """Start Ray on this machine, serve, and say what each replica did."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": path}}, log_to_driver=False)
    try:
        plans = learn_plans.remote()
        # In a list: Ray would replace a bare reference by the value, and copy it into each replica's arguments.
        handle = serve.run(ImageService.bind([plans]), route_prefix=None)
        answers = [answer.result() for answer in [handle.remote(seed) for seed in range(int(num_requests))]]
        last: dict[int, dict[str, Any]] = {}
        for answer in answers:
            if answer["replayed"] >= last.get(answer["process"], answer)["replayed"]:
                last[answer["process"]] = answer
        print(f"{len(answers)} answers from {len(last)} replicas")
        for number, answer in enumerate(last.values()):
            print(f"replica {number}: {answer['replayed']} calls replayed, {answer['recorded']} recorded, "
                  f"{answer['upstream']} requests upstream")  # fmt: skip
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
