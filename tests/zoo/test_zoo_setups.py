"""From a name or a model to a ready explanation."""

import subprocess
import sys

import pytest
import timm
import torch
import torchvision
import transformers
from torch import nn
from torchvision.models import ResNet18_Weights, resnet18

from captum_rdr import zoo
from captum_rdr.pooling import class_token, last_token, token_mean
from captum_rdr.zoo import torchvision_models

TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 50,
}


@pytest.fixture
def downloads(monkeypatch):
    """The URLs that torchvision would download, answered with random weights."""
    asked = []

    def stub(url, *args, **kwargs):
        asked.append(url)
        torch.manual_seed(len(asked))
        return resnet18(weights=None).state_dict()

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", stub)
    return asked


def test_a_name_with_weights(downloads):
    setup = zoo.explain("resnet18")
    assert downloads == [ResNet18_Weights.IMAGENET1K_V1.url]
    assert setup.name == "resnet18 with IMAGENET1K_V1"
    assert [info.name for info in setup.layers] == ["layer4.1"]
    assert len(setup.categories) == 1000
    assert setup.pools == (None,)
    assert not setup.model.training
    expected = resnet18(weights=None).eval()
    torch.manual_seed(1)
    expected = resnet18(weights=None).eval()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(setup.model(x), expected(x))

    photo = torch.randint(0, 256, (3, 300, 400), dtype=torch.uint8)
    ready = setup.transforms(photo)
    assert ready.shape == (3, 224, 224)
    setup.rdr.fit(torch.stack([ready, -ready, ready * 2]), show_progress=False)
    mask, regions = setup.rdr.attribute(ready[None], n_neighbors=2, n_neurons=3)
    assert mask.shape == (1, 512, 7, 7)
    assert 0 in regions[0].members


def test_weights_by_name_and_by_member(downloads):
    for weights in ("IMAGENET1K_V1", ResNet18_Weights.IMAGENET1K_V1):
        assert zoo.explain("resnet18", weights).name == "resnet18 with IMAGENET1K_V1"
    assert len(downloads) == 2
    assert zoo.explain("resnet18", None).transforms is None
    assert len(downloads) == 2


def test_the_repr_tells_the_layers(downloads):
    lines = repr(zoo.explain("resnet18", layer=[-2, "layer4.1.bn1"])).splitlines()
    assert lines == [
        "Setup(resnet18 with IMAGENET1K_V1",
        "  layer layer3.1: 256x14x14; ends in relu: active where positive",
        "  layer layer4.1.bn1: 512x7x7; feeds relu: active where positive)",
    ]


def test_several_layers():
    setup = zoo.explain("resnet18", None, [1, -1], inputs=(3, 64, 64), num_classes=5)
    banks = setup.rdr.fit(torch.randn(3, 3, 64, 64), show_progress=False).bank
    assert [bank.layer_shape for bank in banks] == [(64, 16, 16), (512, 2, 2)]
    assert setup.model.fc.out_features == 5


def test_wrong_arguments():
    with pytest.raises(ValueError, match="'resnet5' is not one of torchvision"):
        zoo.explain("resnet5")
    with pytest.raises(
        ValueError, match=r"weights='V9' is unknown; use one of \('DEFAULT', 'IM"
    ):
        zoo.explain("resnet18", "V9")
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    with pytest.raises(ValueError, match=r"\['num_classes'\] is for a model given by"):
        zoo.explain(net, num_classes=3)
    with pytest.raises(ValueError, match="weights='V9' is for a model given by"):
        zoo.explain(net, "V9")
    with pytest.raises(ValueError, match="stage=5 but the model has 5 stages"):
        zoo.explain("resnet18", None, 5)
    with pytest.raises(
        ValueError, match=r"name='resnet18' is unknown; use one of \('mobil"
    ):
        zoo.paper_setup("resnet18", 10)
    with pytest.raises(ValueError, match="n_classes=0 is too small; use 1"):
        zoo.paper_setup("vgg19", 0)


def test_the_papers_networks():
    x = torch.randn(3, 3, 84, 84)
    shapes = {
        "resnet50": [(256, 21, 21), (512, 11, 11), (1024, 6, 6), (2048, 3, 3)],
        "mobilenet_v2": [
            *((16, 42, 42), (24, 21, 21), (32, 11, 11), (64, 6, 6)),
            *((96, 6, 6), (160, 3, 3), (320, 3, 3), (1280, 3, 3)),
        ],
    }
    for name, expected in shapes.items():
        setup = zoo.paper_setup(name, 7, weights=None)
        banks = setup.rdr.fit(x, show_progress=False).bank
        assert [bank.layer_shape for bank in banks] == expected
        assert setup.model(x).shape == (3, 7)
    vgg = zoo.paper_setup("vgg19", 7, weights=None)
    assert vgg.model.classifier[6].out_features == 7
    convolutions = [vgg.model.get_submodule(info.name) for info in vgg.layers]
    assert all(isinstance(one, nn.Conv2d) for one in convolutions)
    assert [one.out_channels for one in convolutions] == [64, 128, 256, 512, 512]


@pytest.mark.filterwarnings("ignore:.*deprecated")  # newer torch's quantization
def test_a_quantized_model_gets_its_pool():
    setup = zoo.explain("quantized_resnet18", None, inputs=(3, 64, 64), quantize=True)
    assert setup.pools == (zoo.dequantized,)
    assert "ends in relu" in repr(setup)
    assert "quantized: use pool=dequantized" in repr(setup)
    x = torch.randn(4, 3, 64, 64)
    bank = setup.rdr.fit(x, show_progress=False).bank
    assert bank.layer_shape == (512, 2, 2)
    assert 0.005 < bank.active_counts.double().mean() / 4 < 0.995


def test_a_detector_is_read_at_its_body():
    options = torchvision_models.few_boxes("retinanet_resnet50_fpn")
    setup = zoo.explain("retinanet_resnet50_fpn", None, **options)
    assert [info.name for info in setup.layers] == ["backbone.body.layer4.2"]
    table = zoo.layers("retinanet_resnet50_fpn")
    head = next(
        info for info in table if info.name == "head.classification_head.cls_logits"
    )
    assert head.reason == "fires 5 times: choose one call with call_index"
    # A batch of images of one size goes in as a tensor, which is a list of images.
    setup.rdr.fit(torch.rand(4, 3, 64, 64), show_progress=False)
    _, regions = setup.rdr.attribute(torch.rand(1, 3, 64, 64), 2, 3)
    assert len(regions[0].neurons) == 3


@pytest.mark.parametrize(
    ("model", "layer", "pool"),
    [
        (transformers.BertForSequenceClassification, "intermediate.dense", class_token),
        (transformers.BertModel, "intermediate.dense", class_token),
        (transformers.LlamaForCausalLM, "mlp.gate_proj", last_token),
    ],
)
def test_text_models(model, layer, pool):
    config = model.config_class(**TEXT, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(0)
    network = model(config)
    setup = zoo.explain(network)
    assert setup.layers[0].name.endswith(f".1.{layer}")
    assert setup.pools == (pool,)
    check_padding(setup, network)


def test_gpt():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=2, vocab_size=50, bos_token_id=1, eos_token_id=2
    )
    network = transformers.GPT2LMHeadModel(config)
    setup = zoo.explain(network)
    assert [info.name for info in setup.layers] == ["transformer.h.1.mlp.c_fc"]
    assert setup.pools == (last_token,)
    check_padding(setup, network)


def check_padding(setup, network):
    """Padding and what stands in it change no state."""
    ids = torch.randint(3, 50, (6, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[::2, 6:] = 0
    other = ids.clone()
    other[::2, 6:] = 7
    states, training = [], network.training
    for given in (ids, other):
        batch = {"input_ids": given, "attention_mask": mask}
        setup.rdr.fit([batch], show_progress=False)
        states.append(setup.rdr.bank.states(torch.arange(6)))
    assert setup.rdr.bank.layer_shape == (setup.layers[0].shape[1],)
    assert torch.equal(states[0], states[1])
    assert 0.005 < states[0].double().mean() < 0.995
    mask, regions = setup.rdr.attribute(batch, n_neighbors=2, n_neurons=3)
    assert mask.shape == (6, setup.layers[0].shape[1])
    assert all(
        region.query in region.members for region in regions if region.query is not None
    )
    assert network.training is training


def test_a_hugging_face_vision_transformer():
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        **{k: v for k, v in TEXT.items() if k != "vocab_size"},
        image_size=32,
        patch_size=8,
        id2label={0: "cat", 1: "dog"},
    )
    setup = zoo.explain(transformers.ViTForImageClassification(config))
    assert setup.categories == ("cat", "dog")
    assert setup.pools == (class_token,)
    assert setup.layers[0].shape == (17, 32)
    bank = setup.rdr.fit(torch.randn(4, 3, 32, 32), show_progress=False).bank
    assert bank.layer_shape == (32,)


@pytest.mark.parametrize(
    ("name", "options", "layer", "pool"),
    [
        ("test_vit", {}, "blocks.5.mlp.fc1", class_token),
        (
            "test_vit",
            {"class_token": False, "global_pool": "avg"},
            "blocks.5.mlp.fc1",
            token_mean,
        ),
        ("test_efficientnet", {}, "bn2", None),
        ("test_convnext", {}, "stages.3.blocks.1.mlp.fc1", None),
        ("densenet121", {}, "features.norm5", None),
        ("resnetv2_50", {}, "norm", None),
        ("mobilenetv3_small_050", {}, "blocks.5.0.bn1", None),
    ],
)
def test_timm_models(name, options, layer, pool):
    setup = zoo.explain(timm.create_model(name, pretrained=False, **options))
    assert [info.name for info in setup.layers] == [layer]
    assert setup.pools == (pool,)


def test_torchvision_is_imported_only_for_a_name():
    program = (
        "import sys, torch; from captum_rdr import zoo\n"
        "net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU())\n"
        "zoo.explain(net, inputs=(3,))\n"
        "print('torchvision' in sys.modules)\n"
        "sys.modules['torchvision'] = sys.modules['torchvision.models'] = None\n"
        "try:\n    zoo.explain('resnet18', None)\n"
        "except ImportError as error:\n    print(error)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    first, message = result.stdout.splitlines()
    assert first == "False"
    assert "install captum-rdr[zoo], or pass the model itself" in message
