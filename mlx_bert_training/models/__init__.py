"""Encoders, poolings, heads, and the weights that fill them."""
from ..lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, {
    "bert": ["BertConfig", "ModelError"],
    "create": ["BertCore", "BertWithHead", "HeadSpec", "create_model"],
    "weights": ["WeightsError", "cache_folder", "fetch_pretrained", "resolve_pretrained"],
})
