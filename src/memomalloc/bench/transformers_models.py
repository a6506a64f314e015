"""Real definitions from transformers, with random weights: nothing is downloaded."""

from __future__ import annotations

import os
from typing import Any

import torch

from memomalloc.bench.model import Model
from memomalloc.bench.workload import Workload
from memomalloc.extras import require

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers: Any = require("transformers", extra="demo", feature="this suite")
transformers.logging.set_verbosity_error()


def _images(model: Any, batch: int, size: int) -> Workload:
    return Workload(model.eval(), {"pixel_values": torch.randn(batch, 3, size, size)})


def _tokens(model: Any, batch: int, size: int) -> Workload:
    return Workload(
        model.eval(),
        {
            "input_ids": torch.randint(0, model.config.vocab_size, (batch, size)),
            "attention_mask": torch.ones(batch, size, dtype=torch.int64),
        },
    )


def _mobilenet_v2(batch: int, size: int) -> Workload:
    return _images(transformers.MobileNetV2ForImageClassification(transformers.MobileNetV2Config()), batch, size)


def _resnet_50(batch: int, size: int) -> Workload:
    return _images(transformers.ResNetForImageClassification(transformers.ResNetConfig()), batch, size)


def _bert_small(batch: int, size: int) -> Workload:
    config = transformers.BertConfig(
        hidden_size=512, num_hidden_layers=4, num_attention_heads=8, intermediate_size=2048
    )
    return _tokens(transformers.BertForSequenceClassification(config), batch, size)


def _bert_base(batch: int, size: int) -> Workload:
    return _tokens(transformers.BertModel(transformers.BertConfig()), batch, size)


def _gpt2_prefill(batch: int, size: int) -> Workload:
    return _tokens(transformers.GPT2LMHeadModel(transformers.GPT2Config(use_cache=False)), batch, size)


def _vit_base(batch: int, size: int) -> Workload:
    return _images(transformers.ViTForImageClassification(transformers.ViTConfig(image_size=size)), batch, size)


def _swin_tiny(batch: int, size: int) -> Workload:
    return _images(transformers.SwinForImageClassification(transformers.SwinConfig(image_size=size)), batch, size)


def _convnext_tiny(batch: int, size: int) -> Workload:
    return _images(transformers.ConvNextForImageClassification(transformers.ConvNextConfig()), batch, size)


def _t5_encoder(batch: int, size: int) -> Workload:
    return _tokens(transformers.T5EncoderModel(transformers.T5Config()), batch, size)


def _whisper_encoder(batch: int, size: int) -> Workload:
    config = transformers.WhisperConfig(max_source_positions=size // 2)
    encoder = transformers.WhisperModel(config).get_encoder()
    return Workload(encoder.eval(), {"input_features": torch.randn(batch, config.num_mel_bins, size)})


def _detr_resnet_50(batch: int, size: int) -> Workload:
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=transformers.ResNetConfig(out_features=["stage4"]),
    )
    return _images(transformers.DetrForObjectDetection(config), batch, size)


#: The suite ``demo``: what ``memomalloc demo`` shows.
DEMO = (
    Model("mobilenet_v2", _mobilenet_v2, (224,)),
    Model("resnet_50", _resnet_50, (224,)),
    Model("bert_small", _bert_small, (128,), "tokens"),
)

#: The suite ``transformers``.
TRANSFORMERS = (
    Model("bert_base", _bert_base, (128,), "tokens"),
    Model("gpt2_prefill", _gpt2_prefill, (128,), "tokens"),
    Model("vit_base", _vit_base, (224,)),
    Model("swin_tiny", _swin_tiny, (224,)),
    Model("convnext_tiny", _convnext_tiny, (224,)),
    Model("t5_small_encoder", _t5_encoder, (128,), "tokens"),
    Model("whisper_encoder", _whisper_encoder, (3000,), "frames"),
    Model("detr_resnet_50", _detr_resnet_50, (224,)),
)
