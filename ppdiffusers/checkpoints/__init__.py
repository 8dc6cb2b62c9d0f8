"""Weight files as named numpy arrays, read without running anything that is in them.

Four containers are understood, told apart by their first bytes and not by their names: Paddle's `.pdparams` pickles,
torch's zip archives, torch's older stream of pickles, and safetensors. No module here imports paddle or torch.
"""

from ppdiffusers.checkpoints.errors import CheckpointError
from ppdiffusers.checkpoints.reader import Checkpoint, open_checkpoint
from ppdiffusers.checkpoints.torch_writer import save_torch
from ppdiffusers.checkpoints.writer import Pending, save_pdparams, save_safetensors

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Pending",
    "open_checkpoint",
    "save_pdparams",
    "save_safetensors",
    "save_torch",
]
