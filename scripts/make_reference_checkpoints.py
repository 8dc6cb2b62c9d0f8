"""Write the small torch files that tests/checkpoints reads, and the values they must give.

Needs torch and diffusers, which the tests do not: `python scripts/make_reference_checkpoints.py`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, Dict

import numpy as np
import torch
from diffusers import UNet2DModel

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "checkpoints" / "golden"


def state_dicts() -> Dict[str, Any]:
    """What goes into each file: the value to save."""
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    module = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5))
    every_type = {
        "float64": torch.randn(3, 2, dtype=torch.float64),
        "float32": torch.randn(3, 2),
        "float16": torch.randn(3, 2).half(),
        "bfloat16": torch.randn(3, 2).bfloat16(),
        "int64": torch.tensor([-(2**40), 5]),
        "int32": torch.tensor([-7, 2**30], dtype=torch.int32),
        "int16": torch.tensor([-7, 2**14], dtype=torch.int16),
        "int8": torch.tensor([-7, 100], dtype=torch.int8),
        "uint8": torch.tensor([7, 200], dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
    }
    return {
        "contiguous.bin": {"weight": base.clone(), "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)},
        "views.pt": {"transposed": base.clone().t(), "window": base.clone()[1:5:2, 2:6], "tail": base.clone()[4:]},
        "shared.pt": {"all": base, "row": base[2], "column": base[:, 3]},
        "types.pt": every_type,
        "module.bin": module.state_dict(),
        "parameter.pt": OrderedDict(weight=torch.nn.Parameter(torch.randn(2, 3)), step=4),
        "training.ckpt": {
            "epoch": 3,
            "global_step": 120,
            "best": np.float64(0.25),
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-4}]}],
            "state_dict": {"model.weight": torch.randn(2, 2), "model.betas": torch.linspace(0, 1, 4)},
        },
    }


def diffusers_file() -> bytes:
    """What `save_pretrained(safe_serialization=False)` of a model writes."""
    torch.manual_seed(1)
    model = UNet2DModel(
        sample_size=4,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(2,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=1,
        add_attention=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, safe_serialization=False)
        return (Path(folder) / "diffusion_pytorch_model.bin").read_bytes()


def tensors_of(value: Dict[str, Any]) -> Dict[str, np.ndarray]:
    tensors = value.get("state_dict", value)
    return {
        name: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
        for name, tensor in tensors.items()
        if isinstance(tensor, torch.Tensor)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=GOLDEN, help="where the files go (default: %(default)s)")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    expected: Dict[str, np.ndarray] = {}
    for file_name, value in state_dicts().items():
        torch.save(value, folder / file_name)
        torch.save(value, folder / f"legacy-{file_name}", _use_new_zipfile_serialization=False)
        for name, array in tensors_of(value).items():
            expected[f"{file_name}:{name}"] = array
    (folder / "diffusers.bin").write_bytes(diffusers_file())
    for name, array in tensors_of(torch.load(folder / "diffusers.bin", weights_only=True)).items():
        expected[f"diffusers.bin:{name}"] = array
    np.savez_compressed(folder / "expected.npz", **expected)


if __name__ == "__main__":
    main()
