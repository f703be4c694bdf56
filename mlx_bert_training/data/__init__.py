"""From files to batches: read, put into words, encode, split, and hand out in an order that can be repeated."""
from .baselines import baseline_scores
from .frames import read_frame, resolve_path, where
from .labels import LabelMap, fit_labels
from .loader import BucketedLoader, PaddingSummary, TextDataset, bucket_widths
from .prepare import PreparedData, prepare, split_rows
from .templates import RowTemplate
from .tokenization import Encoded, Tokenizer, tiny_tokenizer

__all__ = [
    "BucketedLoader", "Encoded", "LabelMap", "PaddingSummary", "PreparedData", "RowTemplate", "TextDataset", "Tokenizer",
    "baseline_scores", "bucket_widths", "fit_labels", "prepare", "read_frame", "resolve_path", "split_rows",
    "tiny_tokenizer", "where",
]
