"""The smallest inputs that torchvision's models take, and a check of one model."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import nn
from torchvision.models import get_model_builder

from captum_rdr import RelaxedDecisionRegion, zoo
from captum_rdr.zoo.table import chosen
from captum_rdr.zoo.torchvision_models import build, few_boxes, is_detection

N_BANK = 4


class Smallest(NamedTuple):
    """Shape of one instance, and what the builder must be told."""

    shape: tuple[int, ...]
    options: Mapping[str, Any] = MappingProxyType({})


_BY_PREFIX = {
    "alexnet": Smallest((3, 63, 63)),
    "inception": Smallest((3, 75, 75)),
    "quantized_inception": Smallest((3, 75, 75)),
    "maxvit": Smallest((3, 224, 224)),  # windows of 7 at a 32nd of the resolution
    "vit_h_14": Smallest((3, 28, 28), {"image_size": 28}),
    "vit": Smallest((3, 32, 32), {"image_size": 32}),
    "mvit": Smallest((3, 16, 224, 224)),  # learned positions
    "s3d": Smallest((3, 14, 224, 224)),  # pools 2 x 7 x 7 positions
    "swin3d": Smallest((3, 2, 32, 32)),
    "vgg": Smallest((3, 32, 32), {"init_weights": False}),  # faster, as random
    "raft": Smallest((3, 128, 128)),
}


def smallest(name: str) -> Smallest:
    """The smallest input of a model, after its name's longest known prefix."""
    known = [prefix for prefix in _BY_PREFIX if name.startswith(prefix)]
    if known:
        return _BY_PREFIX[max(known, key=len)]
    if is_detection(name):
        return Smallest((3, 64, 64), few_boxes(name))
    if ".video." in get_model_builder(name).__module__:
        return Smallest((3, 2, 16, 16))
    return Smallest((3, 32, 32))


def images(name: str, n: int, seed: int) -> Any:
    """Noise of the smallest size; pairs of it for optical flow."""
    shape = smallest(name).shape
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randn(n, *shape, generator=generator) for _ in range(2)]
    return tuple(batches) if name.startswith("raft") else batches[0]


def as_found(model: nn.Module) -> list[Any]:
    """What must be the same before and after."""
    flags = [module.training for module in model.modules()]
    hooks = [
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in model.modules()
    ]
    # In-place changes count a tensor's version up.
    parameters = [(id(p), p._version, p.grad) for p in model.parameters()]
    buffers = [
        (id(buffer), buffer.dtype, buffer.double().sum().item())
        for buffer in model.buffers()
    ]
    return [flags, hooks, parameters, buffers, torch.get_rng_state().tolist()]


def check_states(name: str) -> None:
    """Explain a model with random weights from end to end, in mixed modes."""
    torch.manual_seed(0)
    model = build(name, **smallest(name).options).train()
    next(iter(model.children())).eval()
    before = as_found(model)

    reference, queries = images(name, N_BANK, 1), images(name, 2, 2)
    table = zoo.layers(model, queries)
    info = chosen(table, None)
    layer = zoo.layer(model, info.name if is_detection(name) else -1, queries)
    rdr = RelaxedDecisionRegion(model, layer)
    rdr.fit([(reference,)], show_progress=False)
    mask, regions = rdr.attribute(queries, n_neighbors=2, n_neurons=3)

    assert info.recommended
    assert model.get_submodule(info.name) is layer
    assert rdr.bank.layer_shape == info.shape
    assert rdr.bank.n_neurons == info.n_neurons
    assert mask.shape == (2, *info.shape)
    assert all(len(region.neurons) == 3 for region in regions)
    active = rdr.bank.active_counts.double().mean().item() / N_BANK
    assert 0.005 < active < 0.995, f"{active:.4f} of the states are active"
    assert as_found(model) == before
