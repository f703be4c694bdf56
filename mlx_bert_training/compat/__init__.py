"""The former API, as thin shims that warn."""
