"""The command line, run in this process and once as the installed command."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captum_rdr import ConfigurationBank, RelaxedDecisionRegion
from captum_rdr.cli import main
from captum_rdr.cli.command_line import parser
from captum_rdr.cli.images import as_tensor, open_image

ROOT = Path(__file__).parents[2]

FACTORY = """
import numpy as np
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2)
    )

def make_with_transform():
    return make(), transform

def transform(image):
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    return pixels / 127.5 - 1

def not_a_model():
    return "a model"

def not_a_transform():
    return make(), lambda image: "pixels"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Images of two classes, a model, and the current folder."""
    generator = np.random.default_rng(0)
    for name, mean in (("dark", 60), ("light", 190)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(20):
            pixels = generator.normal(mean, 40, (8, 8, 3)).clip(0, 255)
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(tmp_path / "images" / name / f"{i:02}.png")
    Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).save(tmp_path / "query.png")
    (tmp_path / "cli_models.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("cli_models", None)
    return tmp_path


MODEL = ["--model", "cli_models:make", "--layer", "1", "--data", "images"]
FITTED = [*MODEL, "--bank", "bank", "--quiet"]


def answer(capsys, *arguments):
    """The JSON that a command prints."""
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys, *arguments) -> str:
    """What a command says when it fails."""
    assert main(list(arguments)) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("captum-rdr: ")
    return err


def test_fit_writes_the_bank_of_the_python_api(folder, capsys):
    found = answer(capsys, "fit", *FITTED, "--threshold=0")
    assert found["layer"] == "1"
    assert (found["instances"], found["neurons"]) == (40, 288)
    import cli_models

    from captum_rdr.cli.images import Images, as_tensor

    model, images = cli_models.make(), Images("images", as_tensor)
    rdr = RelaxedDecisionRegion(model, model[1]).fit(images, show_progress=False)
    bank = ConfigurationBank.load("bank")
    assert bank.rows.equal(rdr.bank.rows)
    assert bank.fingerprint == rdr.bank.fingerprint
    assert found["active share"] == pytest.approx(
        float(bank.states().float().mean()), abs=1e-4
    )


def test_inspect(folder, capsys):
    answer(capsys, "fit", *FITTED, "--threshold", "median")
    found = answer(capsys, "inspect", "bank")
    assert found["threshold"] == "a neuron"
    assert found["layer shape"] == [8, 6, 6]
    assert main(["inspect", "bank"]) == 0
    assert "instances: 40\nneurons: 288\n" in capsys.readouterr().out


def test_explain(folder, capsys):
    assert main(["fit", *FITTED]) == 0
    assert "of layer '1', written to bank" in capsys.readouterr().out
    (found,) = answer(capsys, "explain", *FITTED, "query.png")
    import cli_models

    model = cli_models.make()
    bank = ConfigurationBank.load("bank")
    rdr = RelaxedDecisionRegion(model, model[1], bank=bank)
    query = as_tensor(open_image("query.png"))
    _, (region,) = rdr.attribute(query[None], weighting="evidence")
    assert found["image"] == "query.png"
    assert found["neurons"] == region.neurons.tolist()
    assert len(found["members"]) == len(region.members)
    assert found["significance"]["n_outside"] >= 0
    first = sorted(str(path) for path in (folder / "images").rglob("*.png"))
    assert found["members"] == [
        str(one).removeprefix(f"{folder}/images/")
        for one in np.array(first)[region.members.numpy()]
    ]
    assert all(path.startswith("light/") for path in found["neighbors"])
    assert main(["explain", *FITTED, "query.png"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("query.png: Region(new input by evidence: all ")
    assert "members: light/" in out


def test_explain_by_another_rule(folder, capsys):
    model = [*MODEL, "--bank", "bank", "--quiet", "--pool", "spatial_mean"]
    answer(capsys, "fit", *model, "--threshold", "median", "--keep-features")
    rule = ["--weighting", "evidence", "--neighbors", "cosine", "--tolerance", "0.5"]
    (found,) = answer(capsys, "explain", *model, *rule, "--n-neurons=4", "query.png")
    assert found["tolerance"] == 0.5
    assert len(found["neurons"]) == 4
    assert all(len(one) == 1 for one in found["coordinates"])


def test_report(folder, capsys):
    model = ["--model", "cli_models:make_with_transform", "--data", "images"]
    fitted = [*model, "--bank", "bank", "--quiet"]
    answer(capsys, "fit", *fitted)
    found = answer(capsys, "report", *fitted, "--output", "page.html", "query.png")
    assert found == {"report": "page.html"}
    page = (folder / "page.html").read_text()
    assert page.count("<article") == 1
    assert ">query.png" in page
    assert "light/" in page


@pytest.fixture
def tested(folder):
    """Images in folders of their classes, some in the wrong one, and a model of two."""
    code = (
        FACTORY
        + """
def classify():
    torch.manual_seed(0)
    head = nn.Linear(8, 2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[-1.0], [1.0]]).repeat(1, 8))
        head.bias.copy_(torch.tensor([0.5, -0.5]) * 8)
    spread = nn.Conv2d(3, 8, 1, bias=False)
    nn.init.constant_(spread.weight, 1 / 3)
    return nn.Sequential(spread, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
"""
    )
    (folder / "cli_models.py").write_text(code)
    generator = np.random.default_rng(1)
    for name, other in (("dark", "light"), ("light", "dark")):
        (folder / "tested" / name).mkdir(parents=True)
        for i in range(20):
            mean = {"dark": 60, "light": 190}[other if i < 5 else name]
            pixels = generator.normal(mean, 40, (8, 8, 3)).clip(0, 255)
            path = folder / "tested" / name / f"{i:02}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    model = ["--model", "cli_models:classify", "--layer", "0", "--data", "images"]
    return [*model, "--bank", "bank", "--quiet"]


@pytest.mark.filterwarnings("ignore:.*unanimous")
def test_a_report_on_a_folder_of_classes(folder, tested, capsys):
    answer(capsys, "fit", *tested)
    page = ["report", *tested, "--output", "page.html", "tested"]
    found = answer(capsys, *page)
    assert found["report"] == "page.html"
    assert found["inputs"] == 40
    errors = {path for group in found["groups"] for path in group["errors"]}
    wrong = [f"{name}/{i:02}.png" for name in ("dark", "light") for i in range(5)]
    assert errors <= set(wrong)
    assert len(errors) > 5
    for group in found["groups"]:
        assert sum(group["classes"].values()) == len(group["errors"])
        assert {*group["classes"], *group["predictions"]} <= {"dark", "light"}
        assert 0 <= group["p_value"] <= 1
        assert {*group["odd"]} <= {*group["reference"]}
        assert all((folder / "images" / path).exists() for path in group["reference"])
    written = (folder / "page.html").read_text()
    assert f">{found['groups'][0]['errors'][0]}</a>" in written
    assert "40 inputs, 10 errors" in written
    assert main(page) == 0
    out = capsys.readouterr().out
    assert out.startswith("Misclassification: 10 errors of 40 inputs")
    assert out.endswith("written to page.html\n")


@pytest.mark.filterwarnings("ignore:.*unanimous")
def test_folders_of_classes_as_they_are(folder, tested, capsys):
    answer(capsys, "fit", *tested)
    page = ["report", *tested, "--output", "page.html"]
    (folder / "tested" / "dark" / "00.png").write_text("no image")
    assert "'tested/dark/00.png' is no image" in refusal(capsys, *page, "tested")
    assert main([*page, "tested", "--skip-damaged", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["inputs"] == 39
    assert "1 damaged skipped: dark/00.png" in err
    # One class only: its number is that of the reference folder's.
    (folder / "some").mkdir()
    (folder / "tested" / "light").rename(folder / "some" / "light")
    (group,) = answer(capsys, *page, "some")["groups"]
    assert [*group["classes"]] == ["light"]
    (folder / "some" / "light").rename(folder / "some" / "bright")
    message = "'some' has 1 folders of images, and the model 2 outputs; give one folder"
    assert message in refusal(capsys, *page, "some")
    assert "has 0 folders of images" in refusal(capsys, *page, "some/bright")
    # As many folders as outputs: by their order.
    (folder / "tested" / "dark").rename(folder / "some" / "a")
    found = answer(capsys, *page, "some", "--skip-damaged")
    assert {name for one in found["groups"] for name in one["classes"]} <= {
        "a",
        "bright",
    }


def test_atlas(folder, capsys):
    model = ["--model", "cli_models:make_with_transform", "--data", "images"]
    fitted = [*model, "--bank", "bank", "--quiet"]
    answer(capsys, "fit", *fitted, "--keep-features")
    found = answer(capsys, "atlas", *fitted, "--output", "page.html", "--n-concepts=2")
    assert found == {"atlas": "page.html", "concepts": 2}
    page = (folder / "page.html").read_text()
    assert page.count("<article") == 2
    assert "light/00.png" in page or "dark/00.png" in page
    assert main(["atlas", *fitted, "--output", "page.html"]) == 0
    assert "written to page.html" in capsys.readouterr().out
    assert "'images' is a folder; give a file" in refusal(
        capsys, "atlas", *fitted, "--output", "images"
    )


@pytest.mark.filterwarnings("ignore:.*unanimous")
def test_a_model_of_torchvision(folder, capsys):
    pytest.importorskip("torchvision")
    images = folder / "large"
    images.mkdir()
    for i in range(9):
        Image.effect_noise((64, 64), 50 + i).save(images / f"{i}.png")
    options = ["--model", "torchvision:squeezenet1_1", "--weights", "none"]
    options += ["--data", "large", "--bank", "bank", "--quiet"]
    assert answer(capsys, "fit", *options)["layer"] == "features.12"
    # Random weights are others each time.
    assert "fit again" in refusal(capsys, "explain", *options, "large/0.png")


def test_refusals(folder, capsys):
    answer(capsys, "fit", *FITTED)
    (folder / "text.png").write_text("no image")
    (folder / "empty").mkdir()
    swapped = [*FITTED]
    swapped[5] = "images/dark"
    for arguments, message in [
        (["inspect", "missing"], "missing"),
        (["inspect", "query.png"], "'query.png' holds no bank; give the folder"),
        (["explain", *FITTED, "missing.png"], "No such file"),
        (["explain", *FITTED, "text.png"], "no image that can be read"),
        (["explain", *FITTED, "query.png", "--n-neighbors=99"], "n_neighbors=99"),
        (["explain", *swapped, "query.png"], "'images/dark' has 20 images and is not"),
        (["fit", *FITTED, "--data", "empty"], "'empty' holds no image"),
        (["fit", *FITTED, "--data", "nowhere"], "'nowhere' is no folder"),
        (["fit", *FITTED, "--model", "resnet50"], "write torchvision:resnet50"),
        (["fit", *FITTED, "--model", "cli_models:nothing"], "has no 'nothing'"),
        (["fit", *FITTED, "--model", "no_module:make"], "No module named"),
        (["fit", *FITTED, "--model", "cli_models:not_a_model"], "gave a str; return"),
        (["fit", *FITTED, "--model", "cli_models:not_a_transform"], "tensor (C, H, W)"),
        (["fit", *FITTED, "--layer", "9"], "layer '9' is not in the table"),
        (["fit", *FITTED[:2], *FITTED[4:], "--stage", "9"], "stage=9 but the model"),
    ]:
        assert message in refusal(capsys, *arguments)


@pytest.mark.parametrize("arguments", [[], ["fit"], ["explain", "--tolerance", "x"]])
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert "usage: captum-rdr" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [[], ["fit"], ["explain"], ["report"], ["atlas"], ["inspect"]]
)
def test_help_has_examples(command, capsys):
    with pytest.raises(SystemExit) as error:
        main([*command, "--help"])
    assert error.value.code == 0
    out = capsys.readouterr().out
    assert "captum-rdr fit --model torchvision:resnet50" in out
    assert "exit status: 0 done, 1 failed" in out


def test_images_in_one_folder_have_no_classes(folder):
    from captum_rdr.cli.images import Images, as_tensor

    flat = Images("images/dark", as_tensor)
    assert (flat.classes, set(flat.targets), flat[0][1]) == ([], {-1}, -1)
    nested = Images("images", as_tensor)
    assert nested.classes == ["dark", "light"]
    assert nested.targets == [0] * 20 + [1] * 20
    assert nested[25][1] == 1


def test_hidden_and_empty_folders_and_images_of_all_modes(folder):
    from captum_rdr.cli.images import Images, as_tensor

    (folder / "images" / ".thumbnails").mkdir()
    (folder / "images" / "none").mkdir()
    modes = ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"]
    for mode in modes:
        image = Image.new(mode, (8, 8))
        image.save(folder / "images" / "light" / f"{mode}.tiff".replace(";", ""))
    Image.new("L", (8, 8)).save(folder / "images" / ".thumbnails" / "0.png")
    nested = Images("images", as_tensor)
    assert nested.classes == ["dark", "light", "none"]
    assert nested.targets == [0] * 20 + [1] * (20 + len(modes))
    assert {image.shape for image, _ in nested} == {(3, 8, 8)}
    kept = Images("images", lambda image: image.mode)
    assert {mode for mode, _ in kept} == {"RGB"}


def test_without_torchvision(folder):
    program = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from captum_rdr.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-c", program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    assert run("fit", *FITTED).returncode == 0
    result = run("fit", *FITTED, "--model", "torchvision:resnet50")
    assert result.returncode == 1
    assert "captum-rdr: models by name need torchvision" in result.stderr


def test_a_normalized_input_is_shown_as_it_was():
    from captum_rdr.cli.images import as_shown

    class Normalized:
        mean, std = (0.5, 0.4, 0.3), (0.2, 0.2, 0.1)

        def __call__(self, image):
            raise NotImplementedError

    x = torch.rand(3, 4, 4)
    mean, std = (
        torch.tensor(one).reshape(3, 1, 1) for one in ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    )
    assert as_shown((x - mean) / std, Normalized()).allclose(x, atol=1e-6)


@pytest.mark.parametrize("name", ["docs/command-line.md"])
def test_documented_commands_are_accepted(name):
    text = (ROOT / name).read_text()
    lines = re.findall(r"^captum-rdr (.+)$", text, re.MULTILINE)
    for line in lines:
        assert parser().parse_args(shlex.split(line)).run
    assert lines
