"""A FastAPI service whose model starts armed, with metrics for Prometheus.

python examples/save_plans.py image_model.plans
MODEL_PLANS=image_model.plans uvicorn --app-dir examples fastapi_app:app --workers 2
curl -X POST 'localhost:8000/predict?seed=3'
curl localhost:8000/metrics
"""

from __future__ import annotations

import os

import prometheus_client
import torch
from fastapi import FastAPI
from image_model import build, images

import memomalloc
from memomalloc.serve import metrics

app = FastAPI()
model = memomalloc.optimize(build(), plans=os.environ.get("MODEL_PLANS"))
metrics.register()
app.mount("/metrics", prometheus_client.make_asgi_app())


@app.post("/predict")
def predict(seed: int) -> dict[str, list[int]]:
    """The best class of each image. A plain ``def``: FastAPI calls it on a thread of its pool."""
    with torch.inference_mode():
        return {"classes": model(images(seed)).argmax(dim=1).tolist()}


@app.get("/stats")
def stats() -> dict[str, object]:
    """The counters of this process."""
    return memomalloc.stats(model).as_dict()
