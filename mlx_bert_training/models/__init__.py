"""Encoders, poolings, heads, and the weights that fill them."""
from ..lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, {
    "architecture": ["Architecture"],
    "architectures.bert": ["BertConfig"],
    "create": ["create_model"],
    "layers": ["ModelError"],
    "registry": ["ARCHITECTURES", "POOLINGS"],
    "text_model": ["HeadSpec", "PoolingSpec", "TextModel"],
    "weights": ["WeightsError", "cache_folder", "fetch_pretrained", "resolve_pretrained"],
})
