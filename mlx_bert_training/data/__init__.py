"""From files to batches: read, put into words, encode, split, and hand out in an order that can be repeated."""
from ..lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, {
    "baselines": ["baseline_scores"],
    "frames": ["read_frame", "resolve_path", "where"],
    "labels": ["LabelMap", "fit_labels"],
    "loader": ["BucketedLoader", "PaddingSummary", "TextDataset", "bucket_widths"],
    "prepare": ["PreparedData", "prepare", "split_rows"],
    "templates": ["RowTemplate"],
    "tokenization": ["Encoded", "Tokenizer", "tiny_tokenizer"],
})
