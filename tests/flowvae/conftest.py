"""One thread by default, because these tensors are too small to share; FLOWVAE_TEST_THREADS sets another number."""

import os

import torch

torch.set_num_threads(int(os.environ.get("FLOWVAE_TEST_THREADS", "1")))
