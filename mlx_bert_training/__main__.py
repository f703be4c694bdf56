"""`python -m mlx_bert_training` is `mlx-bert`."""
import sys

from .cli import main

sys.exit(main())
