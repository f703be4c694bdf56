"""Competitions: files, submissions, the ledger, bundles, and the trainer that does it all."""
from ..lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, {
    "client": ["KaggleClient"],
    "ledger": ["Ledger"],
    "submission": ["build_submission", "check_submission", "write_submission"],
    "trainer": ["KaggleTrainer"],
})
