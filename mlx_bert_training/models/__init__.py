"""Encoders, poolings, heads, and the weights that fill them."""
from .architecture import Architecture
from .architectures.bert import BertConfig
from .create import create_model
from .layers import ModelError
from .registry import ARCHITECTURES, POOLINGS
from .text_model import HeadSpec, PoolingSpec, TextModel
from .weights import WeightsError, cache_folder, fetch_pretrained, resolve_pretrained

__all__ = [
    "ARCHITECTURES", "POOLINGS", "Architecture", "BertConfig", "HeadSpec", "ModelError", "PoolingSpec", "TextModel",
    "WeightsError", "cache_folder", "create_model", "fetch_pretrained", "resolve_pretrained",
]
