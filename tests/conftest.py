"""What every test relies on: one thread each, because several workers run side by side, and no network."""

from __future__ import annotations

import os

# Read by huggingface_hub when it is first imported, so before any test module.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch

torch.set_num_threads(1)
