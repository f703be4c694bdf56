"""Encoders, poolings, heads, and the weights that fill them."""
from .bert import BertConfig, ModelError
from .create import BertCore, BertWithHead, HeadSpec, create_model
from .weights import WeightsError, cache_folder, fetch_pretrained, resolve_pretrained

__all__ = [
    "BertConfig", "BertCore", "BertWithHead", "HeadSpec", "ModelError", "WeightsError", "cache_folder", "create_model",
    "fetch_pretrained", "resolve_pretrained",
]
