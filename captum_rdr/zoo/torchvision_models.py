"""Torchvision's models by name: weights, input shapes, preprocessing, class names."""

import inspect
import os
from importlib import import_module
from typing import Any

import torch
from torch.nn import Module
from torch.overrides import TorchFunctionMode

from captum_rdr._arguments import check_choice, meant

_FRAMES = 16
_DETECTION_SIDE = 64
_BOXES = 4


def weights_of(name: str, weights: Any) -> Any:
    """The entry of torchvision's weights that a name and a member's name choose.

    Args:
        name: a model that ``torchvision.models.list_models()`` lists.
        weights: ``"DEFAULT"``, another member's name such as ``"IMAGENET1K_V1"``, such
            a member itself, or None for no weights.

    Returns:
        a member of the model's ``WeightsEnum``, or None.

    Raises:
        ValueError: there is no such model or member.

    >>> weights_of("resnet50", "IMAGENET1K_V1").meta["categories"][:2]
    ['tench', 'goldfish']
    """
    models = torchvision_models()
    if name not in models.list_models():
        raise ValueError(
            f"model {name!r} is not one of torchvision.models.list_models(); pass such "
            f"a name, or the model itself{meant(name, models.list_models())}"
        )
    if not isinstance(weights, str):
        return weights
    members = models.get_model_weights(name).__members__
    check_choice("weights", weights, sorted(members))
    return members[weights]


def build(name: str, weights: Any = None, **options: Any) -> Module:
    """Build a model, without the weights of a backbone where it has none of its own.

    Args:
        name: the model's name.
        weights: an entry of torchvision's weights, or None for random ones.
        **options: passed to torchvision's builder, e.g. ``num_classes``.

    Returns:
        the model, in evaluation mode.

    >>> type(build("alexnet", num_classes=3)).__name__
    'AlexNet'
    """
    models = torchvision_models()
    taken = inspect.signature(models.get_model_builder(name)).parameters
    if "weights_backbone" in taken:
        options.setdefault("weights_backbone", None)
    if name.endswith(("googlenet", "inception_v3")):
        options.setdefault("init_weights", False)  # their default warns and is slow
    try:
        model: Module = models.get_model(name, weights=weights, **options)
    except OSError as error:
        file = os.path.basename(getattr(weights, "url", ""))
        folder = os.path.join(torch.hub.get_dir(), "checkpoints")
        raise ConnectionError(
            f"the weights of {name!r} cannot be downloaded ({error}); put {file} into "
            f"{folder!r}, or take weights=None and load a file of your own with "
            "setup.model.load_state_dict(torch.load(path))"
        ) from error
    return model.eval()


def example_inputs(name: str) -> Any:
    """What a model is traced on: the shape of one instance, or a pair of images.

    That is at the resolution that the model was trained at. Video clips have 16 frames,
    images for detection are small. None for vision transformers, which know their own
    image size.

    >>> example_inputs("inception_v3"), example_inputs("r3d_18")
    ((3, 299, 299), (3, 16, 112, 112))
    """
    models = torchvision_models()
    kind = models.get_model_builder(name).__module__
    if ".optical_flow." in kind:
        pair = torch.rand(2, 2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
        return (pair[0], pair[1])
    if is_detection(name):
        return (3, _DETECTION_SIDE, _DETECTION_SIDE)
    if name.startswith("vit_"):
        return None
    preset = models.get_model_weights(name).DEFAULT.transforms()
    sides = getattr(preset, "crop_size", None) or preset.resize_size
    both = (*sides, sides[0])[:2]  # a single one stands for both
    return (3, _FRAMES, *both) if ".video." in kind else (3, *both)


def build_untrained(name: str) -> Module:
    """Build a model for a look at its layers: on the meta device, without any memory.

    Detection models find boxes on the way, and so must be real; they take small images.

    Raises:
        ValueError: torchvision has no such model.

    >>> next(build_untrained("regnet_y_128gf").parameters()).device
    device(type='meta')
    """
    weights_of(name, None)  # refuses an unknown name
    if is_detection(name):
        return build(name, **few_boxes(name))
    with _EmptyOnMeta():
        return build(name).to("meta")


class _EmptyOnMeta(TorchFunctionMode):
    """Parameters, which modules make with ``torch.empty``, go to the meta device.

    As a default device, meta breaks models that compute their widths with tensors; and a
    hook that every module calls would reach models that other threads build.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        if func is torch.empty and given.get("device") is None:
            given = {**given, "device": "meta"}
        return func(*args, **given)


def few_boxes(name: str) -> dict[str, int]:
    """Options of a detection model's builder that keep a look at its layers cheap.

    >>> few_boxes("ssd300_vgg16")
    {'topk_candidates': 4}
    """
    few = {"topk_candidates": _BOXES}
    if "rcnn" in name:
        few = {"rpn_post_nms_top_n_test": _BOXES, "box_detections_per_img": _BOXES}
    if not name.startswith("ssd"):  # these know their own size
        few |= {"min_size": _DETECTION_SIDE, "max_size": _DETECTION_SIDE}
    return few


def is_detection(name: str) -> bool:
    """Whether a model detects objects.

    >>> is_detection("fcos_resnet50_fpn"), is_detection("resnet50")
    (True, False)
    """
    return ".detection." in torchvision_models().get_model_builder(name).__module__


def torchvision_models() -> Any:
    """``torchvision.models``, imported only when it is asked for.

    >>> torchvision_models().__name__
    'torchvision.models'
    """
    try:
        return import_module("torchvision.models")
    except ImportError as error:
        raise ImportError(
            "models by name need torchvision; install captum-rdr[zoo], or pass the "
            "model itself"
        ) from error
