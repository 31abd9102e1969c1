"""Relaxed Decision Regions as a Captum layer attribution."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Self

import torch
from captum.attr import LayerAttribution
from captum.log import log_usage
from torch import Tensor
from torch.nn import Module

from captum_rdr._arguments import check_whole, checked_rows, for_each
from captum_rdr._summary import as_html, of_explainer
from captum_rdr.axes import LayerAxes
from captum_rdr.bank import ConfigurationBank, bits
from captum_rdr.bank.checks import checked_banks, warn_if_alike
from captum_rdr.bank.files import PathLike
from captum_rdr.bank.reading import read_states
from captum_rdr.bank.writers import writers
from captum_rdr.method.neighbors import bank_queries, recognized
from captum_rdr.method.region import Region, checked_regions
from captum_rdr.method.regions import regions, warn_if_few
from captum_rdr.method.rule import Metric, Rule, Weighting
from captum_rdr.model.clamping import clamping
from captum_rdr.model.concept import concept_score
from captum_rdr.model.fingerprint import Fingerprints
from captum_rdr.model.fitting import LayerIndex, index_data
from captum_rdr.model.inputs import ForwardArguments, input_arguments
from captum_rdr.model.reader import LayerReader
from captum_rdr.model.states import as_threshold
from captum_rdr.pooling import Pool


class RelaxedDecisionRegion(LayerAttribution):  # type: ignore[misc]
    """Find the concept that a layer sees in an input, and all data that share it.

    A layer's neurons are binarized (active or not). The region of an input is made of
    the few principal neurons whose states set the input and its nearest reference
    instances apart from all others, and holds every instance that shares those states.

    Source: Chang, Kwon and Choi, *Understanding Distributed Representations of Concepts
    in Deep Neural Networks without Supervision*, AAAI 2024, Section 3.

    Args:
        forward_func: the model, or a function around it (then the model must be in
            evaluation mode).
        layer: the module to explain, or a list of modules. A list gives a list of banks,
            masks and regions, from one forward pass.
        device_ids: devices of a ``DataParallel`` model that ``forward_func`` applies;
            not needed when it is that model.
        threshold: a neuron is active when its activation is above this: a number, a
            tensor of the layer's shape, or ``"median"`` for each neuron's lower median
            over the reference set. For a list of layers, one for all or a list.
        pool: callable applied to a layer's output before it is binarized, see
            `captum_rdr.pooling`; it also picks a tensor out of a tuple or dict. For a
            list of layers, one for all or a list.
        bank: a bank (for a list of layers, a list) made earlier with the same model and
            layer; its thresholds are used.
        call_index: which call of a layer that fires several times in a forward pass;
            negative counts from the last.
        axes: what the axes of the layer's own output mean, which pools and figures go
            by; None to tell by its type and shape. For a list of layers, a list.
        force: use a bank although the fingerprint of its weights, layer or pool is
            another. Only for a model that is known to have the same states, such as one
            that was converted.

    Attributes:
        reader: what runs, and which activations are read from it.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: lists differ in length, a threshold is not finite, or one that was
            given is not that of ``bank``.

    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU())
    >>> data = torch.randn(200, 4)
    >>> rdr = RelaxedDecisionRegion(model, model[1]).fit(data, show_progress=False)
    >>> mask, regions = rdr.attribute(data[:3] + 0.01, n_neighbors=8, n_neurons=5)
    >>> mask.shape
    torch.Size([3, 16])
    >>> bool(((mask != 0).sum(1) == 5).all())
    True
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Module | list[Module],
        device_ids: list[int] | None = None,
        *,
        threshold: float | Tensor | str | list[float | Tensor | str] = 0.0,
        pool: Pool | list[Pool | None] | None = None,
        bank: ConfigurationBank | list[ConfigurationBank] | None = None,
        call_index: int | None = None,
        axes: LayerAxes | list[LayerAxes | None] | None = None,
        force: bool = False,
    ) -> None:
        super().__init__(forward_func, layer, device_ids)
        layers = layer if isinstance(layer, list) else [layer]
        count = len(layers)
        pools, given_axes = for_each(pool, count, "pool"), for_each(axes, count, "axes")
        if call_index is not None:
            call_index = check_whole("call_index", call_index, least=None)
        self.reader = LayerReader(
            forward_func, layers, device_ids, pools, call_index, given_axes
        )
        self._thresholds = [
            None if isinstance(one, str) and one == "median" else as_threshold(one)
            for one in for_each(threshold, count, "threshold")
        ]
        self._banks: list[ConfigurationBank] | None = None
        if bank is not None:
            self._banks = checked_banks(bank, layer, self._thresholds)
        self._fires_once = False
        self.force = force
        self._fingerprints = Fingerprints(self.reader)

    def __repr__(self) -> str:
        told = of_explainer(self.reader, self._thresholds, self._banks).items()
        said = "; ".join(f"{name}: {value}" for name, value in told)
        return f"RelaxedDecisionRegion({said})"

    def _repr_html_(self) -> str:
        told = of_explainer(self.reader, self._thresholds, self._banks)
        return as_html("RelaxedDecisionRegion", told)

    @property
    def bank(self) -> Any:
        """The reference bank, a list of them for a list of layers, None before `fit`."""
        return None if self._banks is None else self._as_given(self._banks)

    def fit(
        self,
        data: Any,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        *,
        keep_features: bool = False,
        keep_probe: bool = True,
        out: PathLike | list[PathLike] | None = None,
        resume: bool = False,
        show_progress: bool = True,
    ) -> Self:
        """Index the reference data in one pass, one bit a neuron.

        Row i of the bank is the i-th instance of the data. The model is left as found,
        and so are the random number generators. An earlier bank stays until the new one
        is complete.

        With ``out`` the bank goes to a folder block by block, and queries read it from
        there; whenever the process ends, the folder's old bank is whole, or the new one
        is, and ``resume=True`` goes on behind the last finished block.

        Args:
            data: a DataLoader that does not shuffle, a Dataset, or a tensor ``(N, ...)``.
                A batch is a tensor, a tuple or list (inputs first, a tuple of several
                inputs among them; labels are ignored) or a dict passed as keywords,
                all of which forward must take. Batches go to the device of the model's
                first parameter.
            additional_forward_args: passed behind every batch's inputs, as Captum does:
                one argument or a tuple.
            attribute_to_layer_input: index what the layer takes in, not what it puts
                out.
            keep_features: also keep the float activations, which cosine and Euclidean
                neighbors need, in the layer's dtype (float32 for bfloat16): 32 times
                the bank's size or so.
            keep_probe: keep the inputs of the first instances in the bank, up to 8 and
                4 MiB, to run the model on them when it may have changed since, which
                tells whether it still gives the bank's states. Without, and where
                inputs are no tensors or larger, only its weights are compared.
            out: folder for a bank on disk; for a list of layers, one for each.
            resume: go on with the unfinished bank in ``out``, if there is one. The same
                data must come in the same order; batches whose instances are all
                finished are loaded but not run, so with the same batches the bank is
                the same bit for bit. A bank that is finished stays as it is.
            show_progress: draw a progress bar.

        Returns:
            itself.

        Raises:
            TypeError: the data, or the layer's output, is of an unusable type.
            ValueError: the data is empty or shuffled; the layer did not fire, fired
                several times, or gave NaN or shapes that vary; or the bank to resume
                is of another model, layer, threshold or data.
            RuntimeError: another process writes to ``out``.

        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU())
        >>> rdr = RelaxedDecisionRegion(model, model[1])
        >>> rdr.fit(torch.randn(64, 4), show_progress=False).bank
        ConfigurationBank(64 instances x 6 neurons of shape (6,), 512 bytes)
        """
        reader, to_input = self.reader, attribute_to_layer_input
        prints = self._fingerprints.now(to_input)
        kept_in = writers(out, self.layer, resume=resume)
        layers = [
            LayerIndex(
                name,
                self._thresholds[i],
                prints[i],
                to_input,
                keep_features,
                kept_in[i],
                partial(reader.axes_of, i, of_input=to_input),
            )
            for i, name in enumerate(reader.names)
        ]
        self._banks = index_data(
            self.reader,
            data,
            layers,
            additional_forward_args=additional_forward_args,
            show_progress=show_progress,
            keep_probe=keep_probe,
        )
        self._fingerprints.accept(self._fingerprints.now(to_input))
        self._fires_once = True
        for name, bank in zip(reader.names, self._banks, strict=True):
            warn_if_alike(name, bank)
        return self

    # NoiseTunnel looks for the function that this wraps.
    @log_usage(part_of_slo=False)  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Any,
        n_neighbors: int | None = None,
        n_neurons: int | None = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        *,
        tolerance: float = 0,
        weighting: Weighting = "uniform",
        neighbors: Metric | Tensor | None = None,
        rounds: int = 1,
        return_regions: bool = True,
        internal_batch_size: int | None = None,
        show_progress: bool = False,
    ) -> Any:
        """Find the principal neurons and the region of each input.

        Args:
            inputs: a tensor, a tuple of tensors or a dict of tensors, the batch
                dimension first.
            n_neighbors: size k of S: the input and its k - 1 nearest reference
                instances. An input whose activations are those of a bank row, but for
                rounding, is taken to be that row, and counts among the k. None for 8,
                or 16 with ``weighting="evidence"``.
            n_neurons: number t of principal neurons. None for 10, or with
                ``weighting="evidence"`` for all.
            additional_forward_args: further arguments of the forward function: one, or
                a tuple.
            attribute_to_layer_input: as in `fit`; another value is refused.
            tolerance: principal neurons that a member may disagree in; with
                ``weighting="evidence"``, nats that it may fall behind the cut.
            weighting: ``"uniform"``, the paper's rule: the unanimous neurons of highest
                score ``|p_S - p|``; or ``"evidence"``, which gives the purest regions
                as it stands: neurons weigh their log-odds, unanimous or not, and
                members are told by their summed evidence.
            neighbors: what chooses S: ``"configuration"`` distance, ``"cosine"``,
                ``"centered_cosine"`` (features minus their mean), ``"direction"``
                (features at unit length minus the mean of these) or ``"euclidean"``
                distance, or bank rows, int64 ``(m,)`` for all inputs or ``(B, m)``,
                which make ``n_neighbors`` idle. None for configuration, or with
                ``weighting="evidence"`` for direction where the bank has features.
            rounds: with ``weighting="evidence"``, how often S is chosen; from the second
                time on it holds the instances of largest evidence.
            return_regions: False for the mask alone, as Captum's tools expect it.
            internal_batch_size: inputs that the model sees at a time, 64 if None. Of the
                further arguments, tensors as long as the inputs are split with them.
            show_progress: draw a progress bar.

        Returns:
            the mask and one `Region` an input, or the mask alone. The mask is float32
            ``(B, D1, ..., Dm)``: +score where a principal neuron must be active, -score
            where it must be inactive, 0 elsewhere. Lists for a list of layers.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: there is no bank, it belongs to another state of the model, or
                an argument is out of range.

        >>> model = torch.nn.Identity()
        >>> data = torch.tensor([[1.0, 1, -1], [1, 1, 1], [-1, -1, 1], [-1, 1, 1]])
        >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
        >>> mask, (region,) = rdr.attribute(data[:1], n_neighbors=2, n_neurons=1)
        >>> mask
        tensor([[0.5000, 0.0000, 0.0000]])
        >>> region.members
        tensor([0, 1])
        """
        rule = Rule(n_neighbors, n_neurons, tolerance, weighting, neighbors, rounds)
        arguments = input_arguments(inputs, additional_forward_args)
        banks = self._fitted_banks()
        rules = [rule.settled(bank, arguments.batch_size) for bank in banks]
        read = self._read(
            arguments,
            attribute_to_layer_input,
            with_features=any(one.needs_features for one in rules),
            internal_batch_size=internal_batch_size,
            show_progress=show_progress,
        )
        masks, found = [], []
        for bank, settled, tensors in zip(banks, rules, read, strict=True):
            packed, sketches, *kept = tensors
            features = kept[0].cpu() if settled.needs_features else None
            rows = bits.padded(packed, bank.layer_shape).to(bank.device)
            queries = recognized(bank, rows, features, sketches)
            some = regions(bank, queries, settled, show_progress=False)
            warn_if_few(some, settled, stacklevel=3)  # Captum's wrapper is one
            none = torch.zeros(0, *bank.layer_shape)
            mask = torch.stack([one.mask() for one in some]) if some else none
            masks.append(mask.to(packed.device))
            found.append(some)
        given = self._as_given(masks)
        return (given, self._as_given(found)) if return_regions else given

    def attribute_members(
        self,
        indices: Sequence[int] | Tensor,
        n_neighbors: int | None = None,
        n_neurons: int | None = None,
        *,
        tolerance: float = 0,
        weighting: Weighting = "uniform",
        neighbors: Metric | Tensor | None = None,
        rounds: int = 1,
        show_progress: bool = True,
    ) -> Any:
        """Find the regions of instances that the bank holds, without a forward pass.

        Args:
            indices: bank rows, int64 ``(Q,)`` or a sequence of whole numbers.
            n_neighbors: as in `attribute`; the instance's own row counts among them.
            n_neurons: as in `attribute`.
            tolerance: as in `attribute`.
            weighting: as in `attribute`.
            neighbors: as in `attribute`.
            rounds: as in `attribute`.
            show_progress: draw a progress bar when it takes more than a second.

        Returns:
            one `Region` an index; for a list of layers, a list of such lists.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: there is no bank, or an argument is out of range.

        >>> model = torch.nn.Identity()
        >>> data = torch.tensor([[1.0, 1, -1], [1, 1, 1], [-1, -1, 1], [-1, 1, 1]])
        >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
        >>> rdr.attribute_members([2], n_neighbors=2, n_neurons=2)
        [Region(bank row 2: 2 of 3 neurons (1 active, 1 inactive), 2 members, 2 neighbors,
         tolerance=0)]
        """
        rule = Rule(n_neighbors, n_neurons, tolerance, weighting, neighbors, rounds)
        found = []
        banks = self._fitted_banks()
        rows = checked_rows(indices, min(len(bank) for bank in banks))
        for bank in banks:
            settled = rule.settled(bank, len(rows))
            queries = bank_queries(bank, rows, settled)
            found.append(regions(bank, queries, settled, show_progress=show_progress))
            warn_if_few(found[-1], settled, stacklevel=2)
        return self._as_given(found)

    def contains(
        self,
        region: Region | list[Region],
        inputs: Any,
        additional_forward_args: Any = None,
        *,
        internal_batch_size: int | None = None,
        show_progress: bool = False,
    ) -> Any:
        """Tell which inputs lie in a region, whether the bank holds them or not.

        Args:
            region: the region; for a list of layers, one for each.
            inputs: as in `attribute`.
            additional_forward_args: as in `attribute`.
            internal_batch_size: as in `attribute`.
            show_progress: draw a progress bar.

        Returns:
            bool tensor ``(B,)``; for a list of layers, a list of them.

        Raises:
            TypeError: ``region`` is no region.
            ValueError: there is no bank, or the region is that of another layer.

        >>> model = torch.nn.Identity()
        >>> data = torch.tensor([[1.0, 1, -1], [1, 1, 1], [-1, -1, 1], [-1, 1, 1]])
        >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
        >>> (region,) = rdr.attribute_members([0], n_neighbors=2, n_neurons=1)
        >>> rdr.contains(region, torch.tensor([[0.5, -1, 1], [-0.5, 1, 1]]))
        tensor([ True, False])
        """
        wanted = checked_regions(region, self._fitted_banks())
        states = self.states(
            inputs,
            additional_forward_args,
            internal_batch_size=internal_batch_size,
            show_progress=show_progress,
        )
        if not isinstance(self.layer, list):
            return wanted[0].contains(states)
        return [one.contains(own) for one, own in zip(wanted, states, strict=True)]

    def states(
        self,
        inputs: Any,
        additional_forward_args: Any = None,
        *,
        internal_batch_size: int | None = None,
        show_progress: bool = False,
    ) -> Any:
        """Binarize the layer for inputs, as `Region.evidence` and the bank take it.

        Args:
            inputs: as in `attribute`.
            additional_forward_args: as in `attribute`.
            internal_batch_size: as in `attribute`.
            show_progress: draw a progress bar.

        Returns:
            bool tensor ``(B, D1, ..., Dm)``; for a list of layers, a list of them.

        Raises:
            ValueError: there is no bank, or it belongs to another state of the model.

        >>> model = torch.nn.Identity()
        >>> data = torch.tensor([[1.0, 1, -1], [1, 1, 1], [-1, -1, 1], [-1, 1, 1]])
        >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
        >>> states = rdr.states(torch.tensor([[2.0, -1, 1]]))
        >>> states, rdr.bank.distances(states[0])
        (tensor([[ True, False,  True]]), tensor([2, 1, 1, 2]))
        """
        banks = self._fitted_banks()
        read = self._read(
            input_arguments(inputs, additional_forward_args),
            banks[0].attribute_to_layer_input,
            internal_batch_size=internal_batch_size,
            show_progress=show_progress,
        )
        found = [
            bits.unpack(packed, bank.n_neurons).reshape(-1, *bank.layer_shape)
            for bank, (packed,) in zip(banks, read, strict=True)
        ]
        return self._as_given(found)

    def concept_score(self, region: Region | list[Region]) -> Any:
        """A differentiable forward function: how deep inputs lie in a region.

        The score is the mean over the principal neurons of the signed margin: activation
        minus threshold where the neuron must be active, threshold minus activation where
        it must not, in the layer's units. A Captum attribution that takes a function, as
        Integrated Gradients or Occlusion do, then shows where in the input the concept
        is.

        Args:
            region: the region; for a list of layers, one for each.

        Returns:
            function from inputs to a float tensor ``(B,)``; for a list of layers, a list
            of functions.

        Raises:
            TypeError: ``region`` is no region.
            ValueError: there is no bank, or the region is that of another layer.

        >>> from captum.attr import Saliency
        >>> model = torch.nn.Identity()
        >>> data = torch.tensor([[1.0, 1, -1], [1, 1, 1], [-1, -1, 1], [-1, 1, 1]])
        >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
        >>> (region,) = rdr.attribute_members([2], n_neighbors=2, n_neurons=2)
        >>> region.neurons, region.states
        (tensor([0, 2]), tensor([False,  True]))
        >>> score = rdr.concept_score(region)
        >>> score(data)
        tensor([-1.,  0.,  1.,  1.])
        >>> Saliency(score).attribute(data[:1].requires_grad_(), abs=False)
        tensor([[-0.5000,  0.0000,  0.5000]])
        """
        banks = self._fitted_banks()
        wanted = checked_regions(region, banks)
        self._current_banks(banks[0].attribute_to_layer_input)
        check = partial(self._current_banks, without_hooks=True)
        scores = [
            concept_score(self.reader.only(i), bank, one.neurons, one.states, check)
            for i, (bank, one) in enumerate(zip(banks, wanted, strict=True))
        ]
        return self._as_given(scores)

    @contextmanager
    def clamping(
        self,
        neurons: Tensor | list[Tensor],
        values: float | Tensor | list[float | Tensor],
    ) -> Iterator[None]:
        """Fix neurons of the explained layer to values for as long as the context lasts.

        The model runs in evaluation mode, as it did when the bank was made. Afterwards, also
        after an exception, its hooks and each module's ``training`` are as before. Later
        layers, and explainers of them, see what the clamp makes of an input; gradients pass
        through the neurons that are free. `ConfigurationBank.state_means` and
        `neuron_means` give values.

        Args:
            neurons: int64 ``(t,)``, flat indices into the layer's output per instance; for a
                list of layers, a list of such tensors.
            values: what each of them gives instead, in the layer's units: a number or float
                ``(t,)``, or ``(B, t)`` for inputs that differ in it, where NaN leaves a
                neuron free; for a list of layers, one for all or a list.

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
        >>> with rdr.clamping(torch.tensor([0, 2]), torch.tensor([7.0, 9.0])):
        ...     model(data)
        tensor([[7., 2., 9.],
                [7., 2., 9.]])
        >>> model(data)
        tensor([[1., 2., 0.],
                [0., 2., 3.]])
        """
        with clamping(self.reader, self._fitted_banks(), neurons, values):
            yield

    def _read(
        self, arguments: ForwardArguments, attribute_to_layer_input: bool, **how: Any
    ) -> list[tuple[Tensor, ...]]:
        banks = self._current_banks(attribute_to_layer_input)
        read = read_states(
            self.reader, banks, arguments, fires_once=self._fires_once, **how
        )
        self._fires_once = True
        return read

    def _fitted_banks(self) -> list[ConfigurationBank]:
        if self._banks is None:
            raise ValueError("there is no bank yet; call fit, or pass bank")
        return self._banks

    def _current_banks(
        self, attribute_to_layer_input: bool, without_hooks: bool = False
    ) -> list[ConfigurationBank]:
        """The banks, if they belong to the model as it is now."""
        banks = self._fitted_banks()
        for bank in banks:
            fitted = bank.attribute_to_layer_input
            if fitted != attribute_to_layer_input:
                raise ValueError(
                    f"attribute_to_layer_input={attribute_to_layer_input}, but the bank"
                    f" was fitted with {fitted}; pass {fitted} or fit again"
                )
        if not self.force:
            self._fingerprints.check(banks, without_hooks=without_hooks)
        return banks

    def _as_given(self, values: list[Any]) -> Any:
        """A list for a list of layers, else its only item."""
        return values if isinstance(self.layer, list) else values[0]
