"""Fix neurons to values while a model runs."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from captum_rdr import bits
from captum_rdr.arguments import for_each
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.capture import hookable
from captum_rdr.concept import check_shape
from captum_rdr.reading import LayerReader


@contextmanager
def clamping(
    rdr: RelaxedDecisionRegion,
    neurons: Tensor | list[Tensor],
    values: float | Tensor | list[float | Tensor],
) -> Iterator[None]:
    """Fix neurons of the explained layer to values for as long as the context lasts.

    The model runs in evaluation mode, as it did when the bank was made. Afterwards, also
    after an exception, its hooks and each module's ``training`` are as before. Later
    layers, and explainers of them, see what the clamp makes of an input; gradients pass
    through the neurons that are free. `state_means` and `neuron_means` give values.

    Args:
        rdr: explainer of the layer or layers, fitted and without a pool.
        neurons: int64 ``(t,)``, flat indices into the layer's output per instance; for a
            list of layers, a list of such tensors.
        values: what each of them gives instead, in the layer's units: a number or float
            ``(t,)``; for a list of layers, one for all or a list.

    Raises:
        TypeError: ``neurons`` is no int64 tensor.
        ValueError: there is no bank, the layer is pooled, a shape or index does not fit,
            or no clamped layer fired in the context.

    Source: clamping a unit is the intervention of causal mediation analysis and of unit
    ablation, e.g. Bau et al., *Understanding the role of individual units in a deep
    neural network*, PNAS 2020.

    >>> model = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Flatten())
    >>> data = torch.tensor([[1.0, 2, -1], [-1, 2, 3]])
    >>> rdr = RelaxedDecisionRegion(model, model[0]).fit(data, show_progress=False)
    >>> with clamping(rdr, torch.tensor([0, 2]), torch.tensor([7.0, 9.0])):
    ...     model(data)
    tensor([[7., 2., 9.],
            [7., 2., 9.]])
    >>> model(data)
    tensor([[1., 2., 0.],
            [0., 2., 3.]])
    """
    reader, banks = rdr.reader, _banks(rdr)
    clamps = [
        _Clamp(reader, index, bank, picked, value)
        for index, (bank, picked, value) in enumerate(
            zip(
                banks,
                for_each(neurons, len(banks), "neurons"),
                for_each(values, len(banks), "values"),
                strict=True,
            )
        )
    ]
    with contextlib.ExitStack() as stack:
        stack.enter_context(hookable(reader.layers, reader.model))
        for clamp in clamps:
            for remove in clamp.hooks():
                stack.callback(remove)
        yield
    for clamp in clamps:
        clamp.check_applied()


def neuron_means(bank: ConfigurationBank, neurons: Tensor) -> Tensor:
    """Mean activation of neurons over the bank.

    Args:
        bank: a bank with features.
        neurons: int64 ``(t,)``, flat indices.

    Returns:
        float64 tensor ``(t,)``, in the layer's units.

    Raises:
        ValueError: the bank holds no features.

    >>> bank = ConfigurationBank((2,))
    >>> features = torch.tensor([[0.0, 2.0], [1.0, 4.0]])
    >>> bank.append(features > 0, features)
    >>> neuron_means(bank, torch.tensor([1]))
    tensor([3.], dtype=torch.float64)
    """
    return _features(bank, neurons).mean(0)


def state_means(bank: ConfigurationBank, neurons: Tensor, states: Tensor) -> Tensor:
    """Mean activation of neurons over the bank's instances that have given states.

    A neuron that is clamped to it has that state. ``state_means(bank, region.neurons,
    ~region.states)`` flips a region's principal neurons.

    Args:
        bank: a bank with features.
        neurons: int64 ``(t,)``, flat indices.
        states: bool ``(t,)``.

    Returns:
        float64 tensor ``(t,)``, in the layer's units. Where no instance has the state:
        the threshold for an inactive neuron, the next number above it for an active one.

    Raises:
        ValueError: the bank holds no features.

    >>> bank = ConfigurationBank((2,))
    >>> features = torch.tensor([[0.0, 2.0], [1.0, 4.0], [5.0, 0.0]])
    >>> bank.append(features > 0, features)
    >>> state_means(bank, torch.tensor([0, 0]), torch.tensor([True, False]))
    tensor([3., 0.], dtype=torch.float64)
    """
    features = _features(bank, neurons)
    columns = bits.columns(bank.packed, neurons.numpy())
    having = torch.from_numpy(columns) == states
    count = having.sum(0)
    means = features.where(having, 0).sum(0) / count.clamp(min=1)
    threshold = bank.threshold.expand(bank.n_neurons)[neurons]
    dtype = torch.float32 if bank.features is None else bank.features.dtype
    lowest = threshold.to(dtype)
    above = torch.nextafter(lowest, torch.tensor(torch.inf, dtype=dtype))
    return means.where(count > 0, torch.where(states, above, lowest).double())


def _features(bank: ConfigurationBank, neurons: Tensor) -> Tensor:
    if bank.features is None:
        raise ValueError(
            "the bank holds no features, which the mean activations are taken of; fit "
            "with keep_features=True, or clamp to a number"
        )
    return bank.features[:, neurons].double()


def _banks(rdr: RelaxedDecisionRegion) -> list[ConfigurationBank]:
    if rdr.bank is None:
        raise ValueError("rdr has no bank yet; call fit, or pass bank to it")
    for name, pool in zip(rdr.reader.names, rdr.reader.pools, strict=True):
        if pool is not None:
            raise ValueError(
                f"layer {name!r} is read through a pool, so its neurons are no neurons "
                "of the layer's output; clamp with an explainer without pool"
            )
    return rdr.bank if isinstance(rdr.bank, list) else [rdr.bank]


class _Clamp:
    """Fixes neurons of one layer, in one of its calls."""

    def __init__(
        self,
        reader: LayerReader,
        index: int,
        bank: ConfigurationBank,
        neurons: Tensor,
        values: float | Tensor,
    ) -> None:
        self._layer, self._name = reader.layers[index], reader.names[index]
        self._bank, self._model = bank, reader.model
        self._call_index = _known_call(reader.call_index, self._name, reader.model)
        self._mask = torch.zeros(bank.n_neurons, dtype=torch.bool)
        self._values = torch.zeros(bank.n_neurons, dtype=torch.float64)
        picked = _checked_neurons(neurons, bank)
        self._mask[picked] = True
        self._values[picked] = _checked_values(values, picked)
        self._calls: dict[torch.device, int] = {}
        self._lock = threading.Lock()  # replicas of a DataParallel model run in threads
        self._applied = False

    def hooks(self) -> Iterator[Callable[[], None]]:
        """Register hooks, and give what removes each."""
        if self._call_index is not None and self._model is not None:
            yield self._model.register_forward_pre_hook(self._restart).remove
        if self._bank.attribute_to_layer_input:
            yield self._layer.register_forward_pre_hook(
                self._on_input, with_kwargs=True
            ).remove
        else:
            yield self._layer.register_forward_hook(self._on_output).remove

    def check_applied(self) -> None:
        """Refuse a context in which nothing was clamped."""
        if not self._applied:
            call = f" call {self._call_index}" if self._call_index is not None else ""
            raise ValueError(
                f"layer {self._name!r} did not fire{call} inside clamping, so nothing "
                "was clamped; run the model that rdr explains (not a compiled copy) "
                "inside"
            )

    def _restart(self, *_: Any) -> None:
        self._calls.clear()

    def _on_input(
        self, _: Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        given = [*args, *kwargs.values()]
        if len(given) != 1 or not self._is_wanted(given[0]):
            return None
        clamped = self._clamped(given[0])
        return ((clamped,), {}) if args else ((), dict.fromkeys(kwargs, clamped))

    def _on_output(self, layer: Module, _: Any, output: Tensor) -> Tensor | None:
        if not self._is_wanted(output):
            return None
        clamped = self._clamped(output)
        if getattr(layer, "inplace", False) and not output.requires_grad:
            # The caller may go on with the tensor that the layer changed in place.
            return output.copy_(clamped)
        return clamped

    def _is_wanted(self, value: Tensor) -> bool:
        """Count one call, and tell whether it is the one to clamp."""
        with self._lock:
            call = self._calls.get(value.device, 0)
            self._calls[value.device] = call + 1
        return self._call_index in (None, call)

    def _clamped(self, value: Tensor) -> Tensor:
        instances = value.unsqueeze(1) if value.dim() == 1 else value
        check_shape(instances, self._bank, self._name)
        mask = self._mask.reshape(self._bank.layer_shape).to(value.device)
        values = self._values.to(value).reshape(self._bank.layer_shape)
        self._applied = True
        return torch.where(mask, values, instances).reshape(value.shape)


def _known_call(call_index: int | None, name: str, model: Module | None) -> int | None:
    """The call to clamp, counted from the first; None for the only one.

    Raises:
        ValueError: it cannot be told when it comes.
    """
    if call_index is None:
        return None
    if call_index < 0:
        raise ValueError(
            f"call_index={call_index} counts from the last call, which clamping cannot "
            f"know when layer {name!r} fires; count from the first, e.g. call_index=1"
        )
    if model is None:
        raise ValueError(
            f"call_index={call_index}, but which module starts a forward pass is "
            "unknown; pass the model itself as forward_func"
        )
    return call_index


def _checked_neurons(neurons: Tensor, bank: ConfigurationBank) -> Tensor:
    if not isinstance(neurons, Tensor) or neurons.dtype != torch.int64:
        kind = getattr(neurons, "dtype", type(neurons).__name__)
        raise TypeError(
            f"neurons is {kind}; give flat indices as a torch.int64 tensor, e.g. "
            "region.neurons"
        )
    if neurons.dim() != 1:
        raise ValueError(
            f"neurons has shape {tuple(neurons.shape)}; give flat indices (t,)"
        )
    if len(neurons) and not 0 <= neurons.min() <= neurons.max() < bank.n_neurons:
        raise ValueError(
            f"neurons go from {int(neurons.min())} to {int(neurons.max())}, but the "
            f"layer's flat indices from 0 to {bank.n_neurons - 1}"
        )
    return neurons.cpu()


def _checked_values(values: float | Tensor, neurons: Tensor) -> Tensor:
    value = torch.as_tensor(values, dtype=torch.float64).cpu()
    if value.shape not in ((), neurons.shape):
        raise ValueError(
            f"values has shape {tuple(value.shape)} for {len(neurons)} neurons; give a "
            "number or one value each"
        )
    return value
