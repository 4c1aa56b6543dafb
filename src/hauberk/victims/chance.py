"""The chance inside a user's model, with an address and without a trace.

A randomised `nn.Module` draws from torch's global generators, and many a published defense from numpy's or Python's. Inside
`private_chance` all of them stand where an address puts them; afterwards they stand where they stood before.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

__all__ = ["content_of", "number_of", "private_chance"]


def number_of(*address: object) -> int:
    """63 bits from an address; equal addresses give equal numbers in every process."""
    text = "\x1f".join(map(str, address)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def content_of(x: Tensor) -> str:
    """A hash of the numbers in x and of its shape: the address of a question."""
    data = x.detach().cpu().contiguous().reshape(-1)
    hashed = hashlib.blake2b(repr(tuple(x.shape)).encode(), digest_size=8)
    if data.numel():
        hashed.update(data.view(torch.uint8).numpy().data)
    return hashed.hexdigest()


@contextmanager
def private_chance(*address: object, device: torch.device) -> Iterator[None]:
    """Inside, the global generators of torch (on the CPU and on `device`), numpy and Python begin at `address`.

    A generator that a model keeps for itself is out of reach: it goes on from draw to draw.
    """
    seed = number_of(*address)
    cuda = device.type == "cuda"
    legacy, python = np.random.get_state(), random.getstate()  # noqa: NPY002  # the user's model may draw from it
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        np.random.set_state(np.random.RandomState(seed & 0xFFFFFFFF).get_state())  # noqa: NPY002  # as above
        random.setstate(random.Random(seed).getstate())
        try:
            yield
        finally:
            np.random.set_state(legacy)  # noqa: NPY002  # as above
            random.setstate(python)
