"""The command line on folders as people have them: every kind of file, name and damage."""

import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captum_rdr import ConfigurationBank, RelaxedDecisionRegion
from captum_rdr.cli import main
from captum_rdr.cli.images import Images, as_rgb, as_tensor, open_image
from captum_rdr.report import write_report
from captum_rdr.visualization import Reference

ROOT = Path(__file__).parents[2]

# The tests' machine need not have fonts for all scripts.
pytestmark = pytest.mark.filterwarnings("ignore:Glyph", "ignore:.*unanimous")

FACTORY = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2)
    )
"""
MODEL = ["--model", "photo_models:make", "--layer", "1", "--quiet"]
FITTED = [*MODEL, "--data", "photos", "--bank", "bank"]


def noise(seed, mode="RGB", size=(8, 8)):
    return Image.effect_noise(size, 90 + seed).convert(mode)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Two classes of photos, each of another kind."""
    folder = tmp_path / "photos"
    for name in ("cats", "犬"):
        (folder / name).mkdir(parents=True)
        for i in range(6):
            noise(i).save(folder / name / f"{i}.png")
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    oriented = Image.Exif()
    oriented[0x0112] = 6
    for name, image, options in [
        ("gray.png", noise(1, "L"), {}),
        ("alpha gray.png", noise(2, "LA"), {}),
        ("alpha.webp", noise(3, "RGBA"), {}),
        ("palette.gif", noise(4, "P"), {}),
        ("see through.png", noise(5, "P"), {"transparency": bytes([0, 99, 255])}),
        ("bits.bmp", noise(6, "1"), {}),
        ("print.JPG", noise(7, "CMYK"), {"format": "JPEG"}),
        ("deep.png", Image.fromarray(deep), {}),
        ("deep.tiff", Image.fromarray(deep), {}),
        ("deeper.tif", Image.fromarray(deep.astype(np.int32) * 70_000), {}),
        ("float.tif", Image.fromarray(deep.astype(np.float32) / 64_000), {}),
        ("turned.jpeg", noise(8), {"exif": oriented}),
        ("ネコ.jp2", noise(9), {}),
    ]:
        image.save(folder / "cats" / name, **options)
    (folder / "notes.txt").write_text("no image")
    (folder / ".cache").mkdir()
    noise(0).save(folder / ".cache" / "0.png")
    (folder / "cats" / "._0.png").write_bytes(b"\0\5\26\7 what another system adds")
    (tmp_path / "elsewhere").mkdir()
    noise(11).save(tmp_path / "elsewhere" / "linked.png")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    noise(3).save(tmp_path / "query.png")
    (tmp_path / "photo_models.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("photo_models", None)
    return folder


def bomb() -> bytes:
    """A PNG file that says it has 40,000 x 40,000 pixels."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IEND", b"")


def put_damaged(path, kind):
    """A file that no image can be made of."""
    contents = {
        "bomb": bomb(),
        "cut short": (path.parent / "0.png").read_bytes()[:60],
        "empty": b"",
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n",
        "text": b"no image",
    }
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to nothing":
        path.symlink_to(path.parent / "nothing.png")
    else:
        path.write_bytes(contents[kind])


KINDS = ["bomb", "cut short", "empty", "PostScript", "text", "link to nothing", "pipe"]


def succeeds(capsys, *arguments):
    assert main([*arguments, "--json"]) == 0, capsys.readouterr().err
    out, err = capsys.readouterr()
    return json.loads(out), err


def fails(capsys, *arguments):
    assert main(list(arguments)) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("captum-rdr: ")
    assert err.count("\n") == 1
    return err


def test_a_folder_of_every_kind(photos, capsys):
    found, _ = succeeds(capsys, "fit", *FITTED)
    assert found["instances"] == 26
    assert Images("photos").classes == ["cats", "linked", "犬"]
    (region,), _ = succeeds(capsys, "explain", *FITTED, "photos/cats/ネコ.jp2")
    assert set(region["members"]) <= set(Images("photos").paths)
    every = [str(path) for path in sorted((photos / "cats").glob("[!.]*"))]
    assert len(succeeds(capsys, "explain", *FITTED, *every)[0]) == len(every)
    succeeds(capsys, "report", *FITTED, "--output", "page.html", "query.png")
    page = Path("page.html").read_text()
    assert "cats" in page or "犬" in page


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_named_or_skipped(photos, capsys, kind):
    put_damaged(photos / "cats" / "3a.png", kind)
    for workers in ("0", "1") if kind == "cut short" else "0":
        told = fails(capsys, "fit", *FITTED, "--workers", workers)
        assert "'photos/cats/3a.png' is no image that can be read" in told
        assert told.rstrip().endswith("or leave such files out with --skip-damaged")
    found, told = succeeds(
        capsys, "fit", *FITTED, "--skip-damaged", "--batch-size=1", "--threshold=0"
    )
    assert (found["instances"], found["skipped"]) == (26, ["cats/3a.png"])
    assert told == "captum-rdr: 1 damaged skipped: cats/3a.png\n"
    found, told = succeeds(capsys, "explain", *FITTED, "photos/cats/4.png")
    paths = [one for one in Images("photos").paths if one != "cats/3a.png"]
    assert Path(found[0]["neighbors"][0]).name in ("4.png", "alpha gray.png")
    assert set(found[0]["members"]) <= set(paths)
    bank = ConfigurationBank.load("bank")
    import photo_models

    model = photo_models.make()
    inputs = torch.stack([as_tensor(open_image(f"photos/{one}")) for one in paths])
    assert bank.states().equal((model[1](model[0](inputs)) > 0).flatten(1))
    for command in (["explain"], ["report", "--output", "page.html"]):
        queries = [*FITTED, "query.png", "photos/cats/3a.png"]
        assert "3a.png' is no image" in fails(capsys, *command, *queries)
        _, told = succeeds(capsys, *command, *queries, "--skip-damaged")
        assert told == "captum-rdr: 1 damaged skipped: photos/cats/3a.png\n"
        queries = [*FITTED, "photos/cats/3a.png", "--skip-damaged"]
        assert "none of the 1 images can be read" in fails(capsys, *command, *queries)


def test_a_first_image_that_is_damaged(photos, capsys):
    put_damaged(photos / "cats" / "!.png", "text")
    assert "!.png" in fails(capsys, "fit", *FITTED)
    found, _ = succeeds(capsys, "fit", *FITTED, "--skip-damaged")
    assert found["skipped"] == ["cats/!.png"]


def test_a_failure_does_not_cost_the_hours_before(photos, capsys, monkeypatch):
    from captum_rdr.bank import writers

    monkeypatch.setattr(writers, "BLOCK_ROWS", 4)
    whole, _ = succeeds(
        capsys, "fit", *MODEL, "--data", "photos", "--bank", "whole", "--threshold=0"
    )
    bad = photos / "犬" / "9.png"
    put_damaged(bad, "cut short")
    fit = ["fit", *FITTED, "--batch-size=4", "--threshold=0"]
    fails(capsys, *fit)
    finished = json.loads(Path("bank/draft.json").read_text())
    assert finished["arrays"]["rows"]["shape"][0] == 24
    calls = []
    import photo_models

    forward = torch.nn.Conv2d.forward
    monkeypatch.setattr(
        torch.nn.Conv2d, "forward", lambda *a: (calls.append(1), forward(*a))[1]
    )
    (photos / "cats" / "0.png").rename(photos / "cats" / "0b.png")
    told = fails(capsys, *fit, "--resume", "--skip-damaged")
    assert "has indexed other files: 1 missing or renamed (cats/0.png)" in told
    (photos / "cats" / "0b.png").rename(photos / "cats" / "0.png")
    calls.clear()
    found, _ = succeeds(capsys, *fit, "--resume", "--skip-damaged")
    assert found["skipped"] == ["犬/9.png"]
    assert photo_models.make is not None
    assert len(calls) <= 3  # one traces the model, one or two batches are left
    found, _ = succeeds(capsys, *fit, "--resume", "--skip-damaged")
    bank, other = ConfigurationBank.load("bank"), ConfigurationBank.load("whole")
    assert bank.rows.equal(other.rows)
    assert found["instances"] == whole["instances"]
    bad.unlink()
    noise(9).save(photos / "犬" / "10.png")
    assert "added or renamed (犬/10.png)" in fails(capsys, *fit, "--resume")


def test_files_that_are_not_those_that_fit_read(photos, capsys):
    succeeds(capsys, "fit", *FITTED)
    explain = ["explain", *FITTED, "query.png"]
    before, _ = succeeds(capsys, *explain)
    one, other = photos / "cats" / "0.png", photos / "cats" / "new.png"
    changes = [
        ("is not as fit read it, the bank has 26 instances: 1 missing or renamed "
         "(cats/0.png), 1 added or renamed (cats/new.png)",
         lambda: one.rename(other), lambda: other.rename(one)),
        ("has 27 images and is not as fit read it, the bank has 26 instances: 1 added or "
         "renamed (cats/new.png)",
         lambda: noise(20).save(other), other.unlink),
        ("has 25 images and is not as fit read it, the bank has 26 instances: 1 missing or "
         "renamed",
         lambda: one.rename(photos / "away"), lambda: (photos / "away").rename(one)),
        ("not as fit read it, the bank has 26 instances: 2 changed (cats/0.png, cats/1.png); "
         "give the folder",
         lambda: swap(one, photos / "cats" / "1.png"),
         lambda: swap(one, photos / "cats" / "1.png")),
    ]  # fmt: skip
    for message, change, undo in changes:
        change()
        assert message in fails(capsys, *explain)
        assert message in fails(
            capsys, "report", *FITTED, "query.png", "--output", "page.html"
        )
        undo()
        assert succeeds(capsys, *explain)[0] == before
    # A bank that was made in Python tells how many instances it has.
    Path("bank/images.json").unlink()
    assert succeeds(capsys, *explain)[0] == before
    one.unlink()
    assert "has 25 images and is not as fit read it, the bank has 26" in fails(
        capsys, *explain
    )
    Path("bank/images.json").write_text("{")
    assert "images.json' is damaged" in fails(capsys, *explain)


def swap(one, other):
    """Exchange two files of one length."""
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def test_outputs_are_tried_before_the_work(photos, capsys, monkeypatch):
    succeeds(capsys, "fit", *FITTED)
    Path("file").write_text("")

    def no_work(*_, **__):
        raise AssertionError("the model was made")

    monkeypatch.setattr("captum_rdr.cli.commands.load_setup", no_work)
    report = ["report", *FITTED, "query.png", "--output"]
    other = [*FITTED]
    other[-1] = "file"
    inside = [*FITTED]
    inside[-1] = "file/bank"
    for arguments, message in [
        ([*report, "photos"], "'photos' is a folder; give a file"),
        ([*report, "file/page.html"], "'file' is no folder; give one"),
        ([*report, "x" * 300], "name too long"),
        (["fit", *other], "'file' is no folder; give one"),
        (["fit", *inside], "'file/bank' is no folder; give one"),
    ]:
        assert message in fails(capsys, *arguments)


def test_links(photos, capsys):
    (photos / "cats" / "up").symlink_to(photos)
    assert "cats/up" in fails(capsys, "fit", *FITTED)
    (photos / "cats" / "up").unlink()
    (photos / "unmounted").symlink_to("/nowhere/at/all")
    told = fails(capsys, "fit", *FITTED)
    assert "'photos/unmounted' is a link to nothing; mend or remove it" in told


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_output_of_any_encoding(photos, capsys, encoding):
    os.rename(b"photos/cats/1.png", b"photos/cats/\xff\xfe.png")
    succeeds(capsys, "fit", *FITTED)
    program = "import sys; from captum_rdr.cli import main; sys.exit(main())"
    result = subprocess.run(
        [sys.executable, "-c", program, "explain", *FITTED, "query.png"],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.decode(encoding).startswith("query.png: Region(")


@pytest.mark.parametrize("tolerance", ["1e-3", "0.5", "2", "1E0"])
def test_tolerances(photos, capsys, tolerance):
    succeeds(capsys, "fit", *FITTED)
    rule = ["--weighting", "evidence", "--tolerance", tolerance]
    (found,), _ = succeeds(capsys, "explain", *FITTED, *rule, "query.png")
    assert found["tolerance"] == float(tolerance)


def test_inputs_of_several_shapes_are_named(photos, capsys):
    noise(1, size=(9, 8)).save(photos / "cats" / "large.png")
    told = fails(capsys, "fit", *FITTED)
    assert "'photos/cats/large.png' becomes an input of shape (3, 8, 9)" in told


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_plain_modes_are_what_torchvision_makes_of_them(tmp_path, mode):
    image = noise(0, "RGB").convert(mode)
    path = tmp_path / "image.tiff"
    image.save(path)
    with Image.open(path) as again:
        assert as_rgb(again).tobytes() == again.convert("RGB").tobytes()


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_transparency_is_laid_over_white(tmp_path, mode):
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (40, 40, 40, 255))
    image.convert(mode).save(tmp_path / "image.png")
    pixels = np.asarray(open_image(tmp_path / "image.png"))
    assert pixels.tolist() == [[[255] * 3, [40] * 3]]


@pytest.mark.parametrize("name", ["ramp.png", "ramp.tiff"])
def test_a_deep_ramp_keeps_its_levels(tmp_path, name):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(ramp).save(tmp_path / name)
    pixels = np.asarray(open_image(tmp_path / name))
    assert pixels.shape == (256, 256, 3)
    assert np.abs(pixels[..., 0] - ramp / 257.0).max() <= 0.5
    assert len(np.unique(pixels)) == 256


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 2.0, 254.6], [0, 2, 255]),
        ([-1.0, 0.0, 3.0], [0, 64, 255]),
        ([np.nan, 0.0, 1.0], [0, 0, 255]),
        ([7e5, 7e5, 7e5], [0, 0, 0]),
    ],
)
def test_float_images(tmp_path, values, wanted):
    image = Image.fromarray(np.array([values], np.float32))
    image.save(tmp_path / "image.tiff")
    assert np.asarray(open_image(tmp_path / "image.tiff"))[0, :, 0].tolist() == wanted


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_as_they_were_taken(tmp_path, orientation):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.jpg"
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    image = open_image(path)
    assert image.size == ((32, 16) if orientation < 5 else (16, 32))
    bright = np.asarray(image)[..., 0] > 128
    sides = {
        "top": bright[0].all(),
        "bottom": bright[-1].all(),
        "left": bright[:, 0].all(),
        "right": bright[:, -1].all(),
    }
    side = dict(
        enumerate(
            ["top", "top", "bottom", "bottom", "left", "right", "right", "left"], 1
        )
    )
    assert [name for name, is_bright in sides.items() if is_bright] == [
        side[orientation]
    ]


def test_a_page_of_names_that_are_no_text(tmp_path):
    model = torch.nn.Flatten()
    data = torch.rand(30, 1, 4, 4)
    rdr = RelaxedDecisionRegion(model, model, threshold=0.5)
    rdr.fit(data, show_progress=False)
    reference = Reference(data, [0] * 30, class_names=["ok"])
    title = os.fsdecode(b"\xff")
    write_report(tmp_path / "page.html", rdr, [0], reference, title=title)
    assert "<title>?</title>" in (tmp_path / "page.html").read_text()
