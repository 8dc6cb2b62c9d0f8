"""Write the small weight files that old releases of PaddlePaddle and torch made, for tests/checkpoints.

Run it once with each release: `python make_old_checkpoints.py FOLDER`. It needs nothing but the release itself and
runs on Python 2.7 to 3.13; tests/checkpoints/test_checkpoint_versions.py knows the values from `arrays()`.
The files there were made with paddlepaddle 1.8.5 (Python 2.7 and 3.7), 2.6.2, 3.0.0 and 3.3.1, and with torch 1.0.0,
1.5.1, 1.6.0, 1.12.1 and 2.13.0.
"""

# ruff: noqa: B023, UP010, UP030, UP032 (Python 2)
from __future__ import print_function

import os
import pickle
import sys

import numpy as np


def arrays():
    """The tensors of every file, by name."""
    return {
        "matrix": np.arange(12, dtype=np.float32).reshape(3, 4) / 8 - 1,
        "vector": np.arange(5, dtype=np.float64) / 3,
        "counts": np.array([[1, -2], [3, 2**40]], np.int64),
        "half": np.array([0.5, -1.5, 7], np.float16),
    }


def dump(value, path, protocol):
    with open(path, "wb") as stream:
        pickle.dump(value, stream, protocol)


def paddle_files(paddle, save):
    """`save(case, function)` calls `function(path)`."""
    if paddle.__version__.startswith("1."):
        fluid = paddle.fluid
        with fluid.dygraph.guard():
            state = {name: fluid.dygraph.to_variable(array) for name, array in arrays().items()}
            prefix = os.path.join(sys.argv[1], "state")
            fluid.save_dygraph(state, prefix)
            for protocol in range(3 if sys.version_info[0] == 2 else 0):
                save("pickle{0}".format(protocol), lambda path: dump(arrays(), path, protocol))
            save("state", lambda path: os.rename(prefix + ".pdopt", path))  # Paddle's name for what is no parameter
        return
    state = {name: paddle.to_tensor(array) for name, array in arrays().items()}
    save("state", lambda path: paddle.save(state, path))
    save("protocol2", lambda path: paddle.save(state, path, protocol=2))
    save("training", lambda path: paddle.save(dict(state, epoch=3), path))  # tuples of name and array
    save("bfloat16", lambda path: paddle.save({"matrix": state["matrix"].astype("bfloat16")}, path))
    core = paddle.base.core
    static = {}
    for name, array in arrays().items():
        static[name] = core.DenseTensor() if hasattr(core, "DenseTensor") else core.LoDTensor()
        static[name].set(array, paddle.CPUPlace())
    save("static", lambda path: paddle.save(dict(static, epoch=3), path))  # calls of eval


def torch_files(torch, save):
    zipped = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) >= (1, 6)
    state = {name: torch.from_numpy(array) for name, array in arrays().items()}
    wide = torch.zeros(9, 4)
    wide[3:6] = state["matrix"]
    state["matrix"] = wide[3:6]  # part of a larger storage
    module = torch.nn.Linear(4, 3, bias=False)
    module.weight.data.copy_(state["matrix"])
    module.register_buffer("vector", state["vector"])
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 4)).sum().backward()
    if module.weight.grad is not None:
        optimizer.step()
    module.weight.data.copy_(state["matrix"])
    training = {
        "epoch": 3,
        "shape": module.weight.size(),
        "device": module.weight.device,
        "optimizer": optimizer.state_dict(),
        "state_dict": module.state_dict(),
    }
    state["matrix"] = torch.nn.Parameter(state["matrix"])
    state["transposed"] = torch.from_numpy(np.ascontiguousarray(arrays()["vector"].reshape(1, 5).T)).t()
    for style in ([{"_use_new_zipfile_serialization": False}] if zipped else []) + [{}]:
        prefix = "legacy-" if style else ""
        save(prefix + "state", lambda path: torch.save(state, path, **style))
        save(prefix + "training", lambda path: torch.save(training, path, **style))
        save(prefix + "protocol4", lambda path: torch.save(state, path, pickle_protocol=4, **style))
    if zipped:
        noted = state["matrix"].detach().clone()
        noted.note = "an attribute"
        save("attributes", lambda path: torch.save({"matrix": noted}, path))


def main():
    folder = sys.argv[1]
    try:
        import torch

        version, suffix, write = torch.__version__, "pt", lambda save: torch_files(torch, save)
        framework = "torch"
    except ImportError:
        import paddle

        if paddle.__version__.startswith("1."):
            import paddle.fluid  # noqa: F401
        version, suffix, write = paddle.__version__, "pdparams", lambda save: paddle_files(paddle, save)
        framework = "paddle"
    python = "-python2" if sys.version_info[0] == 2 else ""

    def save(case, function):
        name = "{0}-{1}{2}-{3}.{4}".format(framework, version.split("+")[0], python, case, suffix)
        function(os.path.join(folder, name))
        print(name)

    write(save)


if __name__ == "__main__":
    main()
