"""What axes mean: channels, places, tokens, times, for layers of all kinds."""

import pytest
import timm
import torch
import torchvision
import transformers
from torch import nn

from captum_rdr import ConfigurationBank, RelaxedDecisionRegion, zoo
from captum_rdr.axes import LayerAxes, axes_of, guessed_axes
from captum_rdr.pooling import spatial_max, spatial_mean

FIRST, LAST, TOKENS = "channel height width", "height width channel", "token channel"
VIDEO = "channel time height width"

# Family: the axes of the recommended layer, and the channels that it has.
FAMILIES = {
    "alexnet": (FIRST, 256),
    "convnext_tiny": (LAST, 3072),
    "deeplabv3_mobilenet_v3_large": (FIRST, 256),
    "densenet121": (FIRST, 1024),
    "efficientnet_b0": (FIRST, 1280),
    "efficientnet_v2_s": (FIRST, 1280),
    "fasterrcnn_mobilenet_v3_large_320_fpn": (FIRST, 960),
    "fcn_resnet50": (FIRST, 512),
    "googlenet": (FIRST, 1024),
    "inception_v3": (FIRST, 2048),
    "lraspp_mobilenet_v3_large": (FIRST, 960),
    "maxvit_t": ("token window channel", 2048),
    "mc3_18": (VIDEO, 512),
    "mnasnet0_5": (FIRST, 1280),
    "mobilenet_v2": (FIRST, 1280),
    "mobilenet_v3_small": (FIRST, 576),
    "quantized_resnet18": (FIRST, 512),
    "r2plus1d_18": (VIDEO, 512),
    "r3d_18": (VIDEO, 512),
    "raft_small": (FIRST, 96),
    "regnet_x_400mf": (FIRST, 400),
    "regnet_y_400mf": (FIRST, 440),
    "resnet18": (FIRST, 512),
    "retinanet_resnet50_fpn": (FIRST, 256),
    "shufflenet_v2_x0_5": (FIRST, 1024),
    "squeezenet1_1": (FIRST, 512),
    "ssdlite320_mobilenet_v3_large": (FIRST, 128),
    "swin3d_t": ("time height width channel", 3072),
    "swin_t": (LAST, 3072),
    "swin_v2_t": (LAST, 3072),
    "vgg11_bn": (FIRST, 512),
    "vit_b_32": (TOKENS, 3072),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name):
    """A trace tells the axes; the module and the model alone tell the same."""
    info = [info for info in zoo.layers(name) if info.recommended][-1]
    kinds, n_channels = FAMILIES[name]
    assert info.axes.kinds == tuple(kinds.split())
    assert info.shape[info.axes.channel_axis] == n_channels
    assert info.axes.n_prefix == (name == "vit_b_32")


@pytest.mark.parametrize("name", ["swin_t", "convnext_tiny", "vit_b_32", "resnet18"])
def test_without_a_trace_it_is_the_same(name):
    model = torchvision.models.get_model(name, weights=None)
    infos = [info for info in zoo.layers(model, (3, 224, 224)) if info.shape]
    for info in infos:
        layer = model.get_submodule(info.name)
        assert axes_of(layer, info.shape, model) == info.axes, info.name


def fitted(net, layer, data, out=None, **kwargs):
    rdr = RelaxedDecisionRegion(net, layer, **kwargs)
    return rdr.fit(data, out=out, keep_features=True, show_progress=False)


def test_the_bank_keeps_them(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    data = torch.randn(6, 3, 5, 6)
    bank = fitted(net, net[0], data, out=tmp_path / "bank").bank
    assert bank.axes.kinds == ("channel", "height", "width")
    own = LayerAxes(LAST)
    given = fitted(net, net[0], data, axes=own, out=tmp_path / "bank").bank
    copies = [given, given.emptied(), given.take(torch.arange(3))]
    for one in [*copies, ConfigurationBank.load(tmp_path / "bank")]:
        assert one.axes == own
    bank.axes = LayerAxes("channel width height")
    bank.save(tmp_path / "bank")
    loaded = ConfigurationBank.load(tmp_path / "bank").axes
    assert loaded.named((1, 2, 0)) == {"channel": 1, "width": 2, "height": 0}
    assert loaded == bank.axes
    bank.axes = None
    assert bank.axes is None


def test_several_layers_have_axes_of_their_own():
    net = nn.Sequential(nn.Conv1d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 10, 5))
    axes = [LayerAxes("time channel"), None]
    banks = fitted(net, [net[0], net[2]], torch.randn(6, 3, 12), axes=axes).bank
    assert [bank.axes.kinds for bank in banks] == [("time", "channel"), ("channel",)]


def test_what_a_layer_takes_in():
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    rdr = RelaxedDecisionRegion(net, net[0])
    rdr.fit(torch.randn(6, 3, 5, 6), None, True, show_progress=False)
    assert rdr.bank.axes == LayerAxes(LAST)


class ChannelsLast(nn.Module):
    """A convolution behind which channels come last, as in Swin."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = (
            nn.Conv2d(3, 8, 2, 2),
            nn.LayerNorm(8),
            nn.GELU(),
        )

    def forward(self, x):
        return self.act(self.norm(self.conv(x).permute(0, 2, 3, 1)))


@pytest.mark.parametrize("pool", [spatial_mean, spatial_max])
def test_pools_know_where_the_channels_are(pool):
    x = torch.randn(5, 3, 8, 12)
    net = ChannelsLast()
    for layer in (net.norm, net.act, net):
        bank = fitted(net, layer, x, pool=pool).bank
        places = (
            net(x)
            if layer is not net.norm
            else net.norm(net.conv(x).permute(0, 2, 3, 1))
        )
        expected = places.mean((1, 2)) if pool is spatial_mean else places.amax((1, 2))
        assert torch.allclose(bank.features, expected, atol=1e-6)
        assert bank.axes.kinds == ("channel",)
    wave = nn.Conv1d(3, 16, 3)
    assert fitted(wave, wave, torch.randn(4, 3, 60), pool=pool).bank.layer_shape == (
        16,
    )


@pytest.mark.parametrize("register", [0, 4])
def test_a_pool_leaves_class_and_register_tokens_out(register):
    net = timm.create_model(
        "test_vit", pretrained=False, reg_tokens=register, img_size=(64, 96)
    ).eval()
    x = torch.randn(3, 3, 64, 96)
    layer = net.blocks[-1].mlp.fc1
    bank = fitted(net, layer, x).bank
    assert bank.axes == LayerAxes(TOKENS, n_prefix=1 + register)
    taken = []
    handle = layer.register_forward_hook(lambda *args: taken.append(args[2]))
    net(x)
    handle.remove()
    pooled = fitted(net, layer, x, pool=spatial_mean).bank
    expected = taken[0][:, 1 + register :].mean(1)
    assert torch.allclose(pooled.features, expected, atol=1e-5)
    places, prefix = bank.axes.arranged(taken[0], aspect=64 / 96)
    assert places.shape[-2:] == (4, 6)
    assert prefix.shape[-1] == 1 + register


def test_register_tokens_of_hugging_face():
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=28,
        patch_size=7,
        num_register_tokens=3,
    )
    net = transformers.Dinov2WithRegistersModel(config)
    setup = zoo.explain(net, pool=None)
    assert setup.layers[0].axes == LayerAxes(TOKENS, n_prefix=4)


def test_windows_come_back_to_their_places():
    """Window and grid attention, the plain way: pixel by pixel."""
    height, width, window = 4, 6, 2
    pixels = torch.arange(height * width).reshape(height, width)
    blocks = pixels.reshape(height // window, window, width // window, window)
    of_windows = blocks.permute(0, 2, 1, 3).reshape(1, -1, window**2, 1)
    axes = LayerAxes("window token channel")
    places, _ = axes.arranged(of_windows, aspect=height / width)
    assert torch.equal(places[0, 0, 0], pixels)
    swapped = LayerAxes("token window channel")
    places, _ = swapped.arranged(of_windows.transpose(1, 2), aspect=height / width)
    assert torch.equal(places[0, 0, 0], pixels)


def test_layers_that_name_nothing():
    """Nothing is claimed to be known; figures go by the likeliest."""
    net = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(2, (2, 3)))
    data = torch.randn(5, 3, 4)
    assert fitted(net, net[1], data).bank.axes is None  # no axis has six channels
    assert ConfigurationBank((9, 4)).axes is None
    assert axes_of(None, (9, 4)) is None
    assert axes_of(nn.LayerNorm((4, 5, 5)), (4, 5, 5)) is None
    assert axes_of(None, ()) == guessed_axes(()) == LayerAxes("")
    assert axes_of(None, (4,)) == LayerAxes("channel")
    assert guessed_axes((9, 4)) == LayerAxes(TOKENS)
    assert guessed_axes((10, 4)) == LayerAxes(TOKENS, n_prefix=1)
    assert guessed_axes((4, 3, 3)) == LayerAxes(FIRST)
    assert guessed_axes((4, 2, 2, 2, 2)).kinds == ("channel", *["other"] * 4)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"kinds=\('chanel',\) must be of"):
        LayerAxes("chanel")
    with pytest.raises(ValueError, match="each once"):
        LayerAxes("channel channel")
    with pytest.raises(ValueError, match=r"n_prefix=-1 is too small"):
        LayerAxes(TOKENS, -1)
    bank = ConfigurationBank((5, 3))
    for axes in (LayerAxes("channel"), LayerAxes(TOKENS, 5)):
        with pytest.raises(ValueError, match=r"do not fit an output of shape \(5, 3\)"):
            bank.axes = axes
    net = nn.Linear(4, 3)
    with pytest.raises(ValueError, match="do not fit an output of shape"):
        fitted(net, net, torch.randn(5, 4), axes=LayerAxes(LAST))
    with pytest.raises(ValueError, match="axes has 1 items for 2 layers"):
        RelaxedDecisionRegion(net, [net, net], axes=[None])
    with pytest.raises(ValueError, match="spatial_mean needs an output of shape"):
        spatial_mean(torch.zeros(1, 2, 3), LayerAxes("height width"))
