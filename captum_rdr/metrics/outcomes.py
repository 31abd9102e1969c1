"""Run a model batch by batch, and measure what a change to it changes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.method.region import Region
from captum_rdr.model.hooks import hookable, same_random_state
from captum_rdr.model.inputs import ForwardArguments

Later = Sequence[tuple[RelaxedDecisionRegion, Region]]


def batched(arguments: ForwardArguments, batch_size: int) -> list[ForwardArguments]:
    """The same arguments, some instances at a time."""
    n = arguments.batch_size

    def part(value: Any, rows: slice) -> Any:
        whole = isinstance(value, Tensor) and value.dim() and value.shape[0] == n
        return value[rows] if whole else value

    return [
        ForwardArguments(
            tuple(part(value, rows) for value in arguments.args),
            {name: part(value, rows) for name, value in arguments.kwargs.items()},
        )
        for rows in (
            slice(start, start + batch_size) for start in range(0, n, batch_size)
        )
    ]


def as_inputs(arguments: ForwardArguments) -> tuple[Any, ...]:
    """Arguments as `RelaxedDecisionRegion.contains` takes them."""
    args, kwargs = arguments
    return (kwargs, args) if kwargs else (args,)


def output_of(rdr: RelaxedDecisionRegion, arguments: ForwardArguments) -> Any:
    """What the explained model gives, without gradients; it is left as found.

    >>> model = torch.nn.Dropout()
    >>> rdr = RelaxedDecisionRegion(model, model)
    >>> output_of(rdr, ForwardArguments((torch.ones(1, 2),), {})), model.training
    (tensor([[1., 1.]]), True)
    """
    args, kwargs = arguments.to(rdr.reader.device)
    hooks = hookable(rdr.reader.layers, rdr.reader.model)
    with same_random_state(), hooks, torch.no_grad():
        return rdr.forward_func(*args, **kwargs)


def outcomes(
    rdr: RelaxedDecisionRegion, later: Later, batches: Sequence[ForwardArguments]
) -> tuple[Tensor, list[Tensor]]:
    """Logits, and membership in each later region."""
    logits, inside = [], []
    for one in batches:
        output = output_of(rdr, one)
        if not isinstance(output, Tensor) or output.dim() != 2:
            shape = tuple(getattr(output, "shape", ()))
            raise ValueError(
                f"the model gave a {type(output).__name__} of shape {shape}, not logits "
                "(B, C); pick them in forward_func, e.g. lambda x: model(x).logits"
            )
        logits.append(output.float().cpu())
        inside.append([e.contains(region, *as_inputs(one)) for e, region in later])
    return torch.cat(logits), [torch.cat(parts) for parts in zip(*inside, strict=True)]


def change(
    before: tuple[Tensor, list[Tensor]], after: tuple[Tensor, list[Tensor]]
) -> dict[str, Tensor]:
    """What changed for each input."""
    (logits, inside), (now, now_inside) = before, after
    predicted = logits.argmax(1, keepdim=True)
    found = {
        "logit": (now - logits).gather(1, predicted)[:, 0].abs(),
        "logits": (now - logits).norm(dim=1),
        "prediction": (now.argmax(1, keepdim=True) != predicted)[:, 0].float(),
    }
    for index, (was, still) in enumerate(zip(inside, now_inside, strict=True)):
        found[f"later {index}"] = (was != still).float()
    return found
