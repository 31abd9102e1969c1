"""Predicted classes, from a model that is left as it was found."""

import torch
from torch import Tensor

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.metrics.outcomes import output_of
from captum_rdr.model.inputs import BATCH_SIZE, input_arguments


def predicted_classes(rdr: RelaxedDecisionRegion, inputs: Tensor) -> Tensor:
    """The class that the model predicts for each input, in batches.

    Args:
        rdr: explainer of the model.
        inputs: ``(M, ...)``.

    Returns:
        int64 ``(M,)``: the class of the largest output.

    Raises:
        ValueError: the model gives something else than one number a class.

    >>> model = torch.nn.Identity()
    >>> rdr = RelaxedDecisionRegion(model, model)
    >>> predicted_classes(rdr, torch.tensor([[1.0, 2, 0], [3, 1, 1]]))
    tensor([1, 0])
    """
    found = []
    for batch in torch.split(inputs, BATCH_SIZE):
        outputs = output_of(rdr, input_arguments(batch, None))
        shape = tuple(getattr(outputs, "shape", ()))
        if len(shape) != 2 or shape[0] != len(batch):
            raise ValueError(
                f"forward_func gave {type(outputs).__name__} of shape "
                f"{shape} for {len(batch)} inputs; it must give class scores "
                "of shape (B, n_classes)"
            )
        found.append(outputs.argmax(1).cpu())
    return torch.cat(found) if found else torch.empty(0, dtype=torch.int64)
