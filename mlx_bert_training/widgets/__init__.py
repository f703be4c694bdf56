"""Notebook panels, which a later release brings."""
