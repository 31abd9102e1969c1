"""Every model that torchvision lists."""

import math

import pytest
from torchvision.models import list_models
from zoo_models import check_states

from captum_rdr import zoo

# The smallest model of each family runs for real in every test run; the rest is marked.
QUICK = [
    "alexnet",
    "convnext_tiny",
    "deeplabv3_mobilenet_v3_large",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fcn_resnet50",
    "googlenet",
    "inception_v3",
    "lraspp_mobilenet_v3_large",
    "maxvit_t",
    "mc3_18",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "quantized_resnet18",
    "r2plus1d_18",
    "r3d_18",
    "raft_small",
    "regnet_x_400mf",
    "regnet_y_400mf",
    "resnet18",
    "retinanet_resnet50_fpn",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "ssdlite320_mobilenet_v3_large",
    "swin3d_t",
    "swin_t",
    "swin_v2_t",
    "vgg11_bn",
    "vit_b_32",
]

# Name: recommended layers, first to last stage.
RECOMMENDED = {
    "alexnet": ["features.0", "features.3", "features.10"],
    "vgg19": [f"features.{i}" for i in (2, 7, 16, 25, 34)],
    "vgg11_bn": [f"features.{i}" for i in (1, 5, 12, 19, 26)],
    "resnet50": ["bn1", "layer1.2", "layer2.3", "layer3.5", "layer4.2"],
    "densenet121": [
        "features.norm0",
        *(f"features.transition{i}.norm" for i in (1, 2, 3)),
        "features.norm5",
    ],
    "mobilenet_v2": [
        "features.1.conv.0.1",
        "features.3.conv.1.1",
        "features.6.conv.1.1",
        "features.13.conv.1.1",
        "features.18.1",
    ],
    "efficientnet_b0": [
        "features.1.0.block.0.1",
        "features.2.1.block.1.1",
        "features.3.1.block.1.1",
        "features.5.2.block.1.1",
        "features.8.1",
    ],
    "mnasnet1_0": [
        "layers.4",
        "layers.8.2.layers.4",
        "layers.9.2.layers.4",
        "layers.11.1.layers.4",
        "layers.15",
    ],
    "convnext_tiny": [f"features.{i}.block.3" for i in ("1.2", "3.2", "5.8", "7.2")],
    "swin_t": [f"features.{i}.mlp.0" for i in ("1.1", "3.1", "5.5", "7.1")],
    "vit_b_16": ["encoder.layers.encoder_layer_11.mlp.0"],
    "maxvit_t": [
        "stem.0.1",
        *(
            f"blocks.{i}.layers.{j}.layers.grid_attention.mlp_layer.1"
            for i, j in ((0, 1), (1, 1), (2, 4), (3, 1))
        ),
    ],
    "regnet_y_8gf": ["stem.1", *(f"trunk_output.block{i}" for i in (1, 2, 3, 4))],
    "shufflenet_v2_x1_0": ["conv1.1", "stage2.3", "stage3.7", "conv5.1"],
    "squeezenet1_0": [f"features.{i}" for i in (0, 5, 10, 12)],
    "googlenet": ["conv1.bn", "conv3.bn", "inception3b", "inception4e", "inception5b"],
    "deeplabv3_resnet50": ["backbone.bn1", "backbone.layer1.2", "classifier.2"],
    "r3d_18": ["layer1.1", "layer2.1", "layer3.1", "layer4.1"],
    "mvit_v2_s": [f"blocks.{i}.mlp.0" for i in (0, 2, 13, 15)],
    "raft_small": ["context_encoder.layer3.1"],
}


@pytest.mark.parametrize("name", list_models())
def test_table(name):
    table = zoo.layers(name)
    stages = [info.stage for info in table if info.recommended]
    assert sorted(stages) == list(range(len(stages)))
    assert stages
    for info in table:
        assert info.n_neurons == (0 if info.shape is None else math.prod(info.shape))
        assert info.usable or not info.recommended
        assert info.shape is not None or not info.usable
        assert info.reason
    if name in RECOMMENDED:
        names = [info.name for info in table if info.recommended]
        assert names == RECOMMENDED[name]


@pytest.mark.parametrize("name", QUICK)
def test_states_of_a_small_model(name):
    check_states(name)


@pytest.mark.zoo
@pytest.mark.parametrize("name", sorted(set(list_models()) - set(QUICK)))
def test_states(name):
    check_states(name)
