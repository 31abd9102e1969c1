"""What the tests of figures and reports share."""

from dataclasses import replace

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor, nn

from captum_rdr import ConfigurationBank, Region, RelaxedDecisionRegion
from captum_rdr.method.region import Significance

FAILED = Significance(0.3, 0.4, 12, level=0.01)
PASSED = Significance(0.002, 4.0, 12, 0.008)


def shapes(n: int, channels: int = 1, side: int = 8) -> Tensor:
    """Images ``(n, channels, side, side)`` in [0, 1] of bars that lie or stand."""
    generator = torch.Generator().manual_seed(n)
    images = 0.2 * torch.rand(n, channels, side, side, generator=generator)
    for index, image in enumerate(images):
        image[index % channels, :, side // 2] += 0.7 * (index % 2)
        image[index % channels, side // 2, :] += 0.7 * (1 - index % 2)
    return images.clamp(0, 1)


def fitted(data: Tensor, seed: int = 0, **kwargs: object) -> RelaxedDecisionRegion:
    """A small network's convolution and hidden layer, fitted together."""
    torch.manual_seed(seed)
    channels, side = data.shape[1], data.shape[-1]
    model = nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * (side // 2) ** 2, 24),
        nn.ReLU(),
    ).eval()
    layers = [model[1], model[4]]
    return RelaxedDecisionRegion(model, layers).fit(data, show_progress=False, **kwargs)


def hidden(data: Tensor, **kwargs: object) -> RelaxedDecisionRegion:
    """The hidden layer alone."""
    both = fitted(data)
    return RelaxedDecisionRegion(both.forward_func, both.layer[1]).fit(
        data, show_progress=False, **kwargs
    )


def strings(ax: object) -> list[str]:
    """Every visible text of a figure's Axes and those within."""
    found = [text.get_text() for text in ax.findobj(Text) if text.get_visible()]
    return [text for text in found if text]


def draw(fig: Figure) -> None:
    """Draw a figure, also one without a canvas that draws."""
    FigureCanvasAgg(fig).draw()


def check_texts(fig: Figure) -> None:
    """Check that nothing that is drawn, texts above all, is cut off at the edge."""
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    box = fig.get_tightbbox(canvas.get_renderer())
    width, height = fig.get_size_inches()
    assert min(box.x0, box.y0) >= -0.01, box
    assert box.x1 <= width + 0.01, box
    assert box.y1 <= height + 0.01, box


def as_new(region: Region, bank: ConfigurationBank) -> Region:
    """The region of the same query, as if the bank did not hold it."""
    states = region.query_states if region.query is None else bank.rows[region.query]
    return replace(region, query=None, query_states=states)


def outcome(region: Region, significance: Significance) -> Region:
    """A region that was tested."""
    return replace(region, significance=significance)


def marked(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images of bars, their classes, and which of them have a bright corner."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    has_mark = torch.rand(n, generator=generator) < 0.25
    images = shapes(n, 3)
    images[has_mark, :, :3, :3] = 1.0
    return images, labels, has_mark


def misled() -> tuple[nn.Sequential, Tensor, Tensor]:
    """A classifier of bars that takes a bright corner for class 0, and what it learned from."""
    images, labels, has_mark = marked(300, 0)
    labels = labels.where(~has_mark, 0)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 16, 2),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.eval(), images, labels
