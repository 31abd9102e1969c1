"""Leave a model and the random number generators as they were found."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from captum_rdr.raw import raw_bytes


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Run a model in evaluation mode and put every module and buffer back.

    Each module's own ``training`` flag is restored, not the root's for all of them,
    and a buffer that the forward pass wrote gets its old values again. The flags are
    set directly, since a model may override ``train`` with side effects.

    >>> model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(2, 2).eval())
    >>> with evaluating(model):
    ...     [module.training for module in model]
    [False, False]
    >>> [module.training for module in model]
    [True, False]
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for module, name, buffer, values in buffers:
            _restore_buffer(module, name, buffer, values)


def _restore_buffer(module: Module, name: str, buffer: Tensor, values: Tensor) -> None:
    module._buffers[name] = buffer
    if buffer.is_meta:  # no values to restore
        return
    if not torch.equal(raw_bytes(buffer), raw_bytes(values)):
        with torch.no_grad():
            buffer.copy_(values)


@contextmanager
def same_random_state() -> Iterator[None]:
    """Give PyTorch's, NumPy's and Python's global generators their state back.

    Iterating a DataLoader draws from PyTorch's, and transforms may draw from any.

    >>> before = torch.get_rng_state()
    >>> with same_random_state():
    ...     _ = torch.rand(3)
    >>> bool((torch.get_rng_state() == before).all())
    True
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    on_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = list(range(torch.cuda.device_count())) if on_cuda else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
