"""Competitions: cross-validation and submissions."""
from .trainer import KaggleTrainer

__all__ = ["KaggleTrainer"]
