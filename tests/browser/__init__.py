"""Tests in a real JupyterLab with a real Chromium; skipped with a reason where either is missing."""
