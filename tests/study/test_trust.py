"""Files, names and archives from elsewhere: nothing in them is executed, unpacked without bound, or shown as HTML."""

from __future__ import annotations

import ast
import io
import json
import pickle
import re
import struct
import zipfile
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save as safetensors_save

import gradlab as gl
from gradlab.errors import GradlabError
from gradlab.runtime import checkpoints, digests, files
from gradlab.study import Request, claims, report, runner
from tests.study.fake_studies import studies  # noqa: F401  (a fixture)
from tests.study.test_report import PNG

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    p
    for folder in ("gradlab", "studies", "benchmarks")
    for p in (ROOT / folder).rglob("*.py")
    if ".venv" not in p.parts
)

# ---------------------------------------------------------------------------------------------------- what the code says

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "pty", "yaml"}
FORBIDDEN_NAMES = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_CALLS = {"os.system", "os.popen", "os.execv", "os.execvp", "os.spawnv", "subprocess.getoutput"}


def dotted(node):
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id if isinstance(node, ast.Name) else "?", *reversed(parts)])


def offences(source):
    """What a source does that opens a door: unpickling, a shell, the evaluation of a string."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in FORBIDDEN_MODULES]
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            found.append(node.module)
        if not isinstance(node, ast.Call):
            continue
        name, options = dotted(node.func), {k.arg: k.value for k in node.keywords}
        is_true = {k for k, v in options.items() if isinstance(v, ast.Constant) and v.value is True}
        if name in FORBIDDEN_NAMES | FORBIDDEN_CALLS or name.startswith(("os.exec", "os.spawn", "yaml.")):
            found.append(name)
        if name == "torch.load" and "weights_only" not in is_true:
            found.append("torch.load without weights_only=True")
        if name.endswith(".read_pickle") or "allow_pickle" in is_true:
            found.append(name)
        if "shell" in options:
            found.append(f"{name}(shell=...)")
        # DataFrame.query and DataFrame.eval evaluate strings; codec.eval() takes none.
        if name.endswith((".query", ".eval")) and (node.args or options):
            found.append(name)
    return found


def test_the_code_unpickles_nothing_and_evaluates_nothing():
    assert len(SOURCES) > 100
    assert {str(p.relative_to(ROOT)): found for p in SOURCES if (found := offences(p.read_text("utf-8")))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "eval('1')",
        "exec(text)",
        "import os\nos.system('ls')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "frame.query('a > 1')",
        "import yaml\nyaml.load(text)",
        "pd.read_pickle('x')",
    ],
)
def test_that_check_would_see_it(source):
    assert offences(source)


def test_every_dependency_is_pinned_with_hashes():
    for name in ("requirements.lock", "requirements-minimal.lock", "requirements-test.lock", "requirements-uv.lock"):
        text = (ROOT / name).read_text("utf-8").replace("\\\n", " ")
        lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        assert len(lines) >= 1
        for line in lines:
            assert re.match(r"\S+==\S+", line), line
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", line), line
            assert "://" not in line and " @ " not in line, line
    make = (ROOT / "Makefile").read_text("utf-8")
    assert all("--require-hashes" in line for line in make.splitlines() if "install" in line and "-r req" in line)


# -------------------------------------------------------------------------------------------------------- weights


class Bomb:
    def __reduce__(self):
        return exec, ("import pathlib; pathlib.Path('executed').touch()",)


def test_a_pickle_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in (("raw.pth", pickle.dumps(Bomb())), ("x.safetensors", pickle.dumps(Bomb()))):
        (tmp_path / name).write_bytes(content)
    torch.save({"state_dict": Bomb()}, tmp_path / "saved.pth")
    for name in ("raw.pth", "saved.pth", "x.safetensors"):
        with pytest.raises(GradlabError, match="corrupt"):
            gl.codecs.load(tmp_path / name, "small-hyperprior")
    assert not (tmp_path / "executed").exists()


def test_an_archive_that_grows_is_refused_unpacked(tmp_path):
    torch.save({"w": torch.zeros(1 << 20)}, tmp_path / "zeros.pth")
    with zipfile.ZipFile(tmp_path / "zeros.pth") as old, zipfile.ZipFile(tmp_path / "bomb.pth", "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry), compress_type=zipfile.ZIP_DEFLATED)
    assert (tmp_path / "bomb.pth").stat().st_size < 20_000
    with pytest.raises(GradlabError, match="expands to more than the size of the file"):
        gl.codecs.load(tmp_path / "bomb.pth", "small-hyperprior")


def test_shapes_that_the_file_cannot_hold_are_refused(tmp_path):
    torch.save({"h_a.0.weight": torch.zeros(1).expand(10**6, 10**6, 5, 5)}, tmp_path / "strides.pth")
    with pytest.raises(GradlabError, match="its tensors are larger than the file"):
        gl.codecs.load(tmp_path / "strides.pth", "bmshj2018-hyperprior")
    # A single tensor that is really there, and claims a model of 10^5 channels.
    torch.save({"h_a.0.weight": torch.zeros(10**5, 1, 1, 1)}, tmp_path / "wide.pth")
    with pytest.raises(GradlabError, match="do not fit bmshj2018-hyperprior"):
        gl.codecs.load(tmp_path / "wide.pth", "bmshj2018-hyperprior")


@pytest.mark.parametrize("field", ["iteration", "extra", "settings_hash"])
def test_a_checkpoint_whose_header_was_changed_is_refused(tmp_path, field):
    path = tmp_path / "a.safetensors"
    checkpoints.save(path, {"w": torch.ones(2)}, "abc", 12, {"log": [1.0]})
    whole = path.read_bytes()
    changed = {"iteration": 13, "extra": {"log": [2.0]}, "settings_hash": "abd"}[field]
    size = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(json.loads(whole[8 : 8 + size])["__metadata__"]["gradlab"])
    header[field] = changed
    path.write_bytes(safetensors_save({"w": torch.ones(2)}, {"gradlab": json.dumps(header)}))
    with pytest.raises(GradlabError, match="its digest does not match"):
        checkpoints.load(path)


def test_a_checkpoint_without_a_digest_of_its_header_is_refused(tmp_path):
    tensors = {"w": torch.ones(2)}
    header = {"settings_hash": "abc", "iteration": 3, "digest": checkpoints.digest(tensors), "extra": {}}
    (tmp_path / "a.safetensors").write_bytes(safetensors_save(tensors, {"gradlab": json.dumps(header)}))
    with pytest.raises(GradlabError, match=r"is corrupt \('seal'\): delete it and train again"):
        checkpoints.load(tmp_path / "a.safetensors")


# ---------------------------------------------------------------------------------------------------------- images


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, extra=b""):
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


def large(kind):
    """A few bytes whose header claims an enormous picture."""
    if kind == "png":
        return png(2**31 - 1, 2**31 - 1)
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, {"gif": "GIF", "bmp": "BMP", "tiff": "TIFF", "ppm": "PPM"}[kind])
    raw = bytearray(content.getvalue())
    if kind == "gif":
        raw[6:10] = struct.pack("<HH", 65535, 65535)
    if kind == "bmp":
        raw[18:26] = struct.pack("<ii", 2**20, 2**20)
    if kind == "ppm":
        return b"P6 1000000 1000000 255\n"
    if kind == "tiff":
        raw = bytearray(
            re.sub(
                rb"(\x00\x01|\x01\x01)(\x03|\x04)\x00\x01\x00\x00\x00\x08\x00\x00\x00",
                lambda m: m[1] + b"\x04\x00\x01\x00\x00\x00\x00\x00\x10\x00",
                bytes(raw),
            )
        )
    return bytes(raw)


@pytest.mark.parametrize("kind", ["png", "gif", "bmp", "tiff", "ppm"])
def test_a_tiny_file_with_huge_dimensions_is_refused(tmp_path, kind):
    path = tmp_path / f"bomb.{kind}"
    path.write_bytes(large(kind))
    with pytest.raises(GradlabError, match=r"more than 80 million pixels|truncated or damaged"):
        gl.data.read_image(path)


def test_text_that_unpacks_to_a_gigabyte_is_refused(tmp_path):
    text = zlib.compress(bytes(1 << 28), 9)
    (tmp_path / "bomb.png").write_bytes(png(8, 8, chunk(b"zTXt", b"k\0\0" + text)))
    with pytest.raises(GradlabError, match="truncated or damaged"):
        gl.data.read_image(tmp_path / "bomb.png")


def test_what_pillow_would_hand_to_a_program_is_no_image(tmp_path):
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(executed) (w) file closefile\nshowpage\n"
    (tmp_path / "photo.png").write_bytes(eps)
    with pytest.raises(GradlabError, match="is not an image"):
        gl.data.read_image(tmp_path / "photo.png")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_its_exif_says(tmp_path, orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    # What each value says of where the first row and column of the file belong (EXIF 2.3, 4.6.4).
    upright = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: pixels.transpose(1, 0, 2)[:, ::-1],
        7: pixels.transpose(1, 0, 2)[::-1, ::-1],
        8: pixels.transpose(1, 0, 2)[::-1],
    }[orientation]
    assert np.array_equal(gl.data.read_image(tmp_path / "a.png").permute(1, 2, 0).numpy(), upright)


def test_the_embedded_photographs_are_what_they_were():
    found = {split: gl.data.fingerprint(gl.data.embedded(split))[:12] for split in ("train", "test")}
    assert found == {"train": "a98a154ccd59", "test": "c5fcbfc7db82"}


# ----------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["../evil", "a/b", "/tmp/evil", ".hidden", ".."])
def test_a_table_stays_in_the_folder_of_its_study(studies, name):  # noqa: F811
    text = (studies / "table1.py").read_text()
    (studies / "table1.py").write_text(text.replace('"table1_more"', repr(name)))
    with pytest.raises(GradlabError, match="is not a plain file name: give a name"):
        runner.run(["table1"], out="out")
    assert not list(Path("out").rglob("*.csv")) and not Path("evil.csv").exists()


@pytest.mark.parametrize("name", ["../evil", "a/b", "/tmp/evil"])
def test_names_of_a_run_cannot_leave_its_folder(tmp_path, name):
    for field in ("objective", "estimator"):
        with pytest.raises(GradlabError, match="unknown"):
            gl.Loss(**{field: name})
    with pytest.raises(GradlabError, match="unknown codec"):
        gl.codecs.build(name, (1, 1))
    with pytest.raises(GradlabError, match="unknown codec"):
        gl.training.TrainSettings(codec=name)
    with pytest.raises(GradlabError, match="unknown study"):
        runner.run([name], out=tmp_path / "out")


# ------------------------------------------------------------------------------------------------------------- HTML

HOSTILE = [
    '"><img src=x onerror=alert(1)>',  # the first is the name of a file too
    "<script>alert(1)</script>",
    "' onmouseover='alert(1)",
    "</td></table></section><h1>x</h1>",
    "{{ 7 * 7 }}{% for x in y %}",
    "&lt;b&gt;<!-- ",
    "javascript:alert(1)",
    "\u202e\ufeff",
]


class Shape(HTMLParser):
    """Tags and the names of their attributes, and whatever is said in text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.links, self.said = [], set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data):
        self.said.append(data)


def page(folder, words):
    """A folder of results all of whose words are ``words``."""
    there = folder / "quick" / "table1"
    there.mkdir(parents=True)
    columns = {f"{w} {i}": [w, w] for i, w in enumerate(words)}
    files.write_csv(there / "table1.csv", pd.DataFrame(columns))
    name = words[0]
    files.write_csv(there / f"{name}.csv", pd.DataFrame(columns))
    (there / f"{name}.png").write_bytes(PNG)
    rows = pd.DataFrame([(w, w, "yes", w) for w in words], columns=["claim", "source", "holds", "evidence"])
    files.write_csv(there / "verdicts.csv", rows)
    text = "\n".join(words)
    keys = ("study", "profile", "device", "cpu", "threads", "time", "seed", "gradlab", "commit", "command", "dirty")
    record = dict.fromkeys(keys, text) | {"study": words[0], "description": "\n\n".join(words), "wall_s": text}
    record |= {head: {f"{w}{i}": w for i, w in enumerate(words)} for head in report.DETAILS}
    record = {"study": "table1", "seed": 0, "wall_s": 1.0, "tables": ["table1"]} | record
    files.write_json(there / "provenance.json", digests.sealed(record))
    return Shape(report.build(folder / "quick").read_text("utf-8"))


def test_the_report_escapes_what_it_shows(tmp_path):
    plain = page(tmp_path / "plain", [f"word {i}" for i in range(len(HOSTILE))])
    hostile = page(tmp_path / "hostile", HOSTILE)
    # The same page, tag by tag: nothing of what is shown became one, nor an attribute, nor a place to go to.
    assert hostile.tags == plain.tags
    assert hostile.attributes == plain.attributes
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in hostile.links)
    said = "".join(hostile.said)
    assert all(word in said for word in HOSTILE[:-1])


def test_a_page_without_escapes_would_be_seen(tmp_path, monkeypatch):
    import jinja2

    class Trusting(jinja2.Environment):
        def __init__(self, **options):
            super().__init__(**(options | {"autoescape": False}))

    plain = page(tmp_path / "plain", [f"word {i}" for i in range(len(HOSTILE))])
    monkeypatch.setattr(jinja2, "Environment", Trusting)
    assert page(tmp_path / "hostile", HOSTILE).tags != plain.tags


# ---------------------------------------------------------------------------------------------------------- digests


@pytest.fixture
def done(studies):  # noqa: F811
    runner.run(["table1"], out="out")
    return Path("out")


@pytest.mark.parametrize("name", ["table1.csv", "table1_more.csv", "verdicts.csv"])
def test_a_digit_that_flips_in_a_csv_is_told_and_measured_again(done, name):
    path = done / "table1" / name
    whole = path.read_bytes()
    report.build(done)
    at = next(i for i, b in enumerate(whole) if chr(b).isdigit() and i > whole.index(b"\n"))
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(GradlabError, match=rf"{name} was modified after its study wrote it"):
        report.build(done)
    if name == "verdicts.csv":
        with pytest.raises(GradlabError, match="was modified after its study wrote it"):
            claims.ledger(done)
    runner.run(["table1"], out=done, request=Request(options=gl.training.RunOptions(resume=True)))
    assert path.read_bytes() == whole
    report.build(done)


def test_a_record_that_was_changed_is_told_and_measured_again(done):
    path = done / "table1" / "provenance.json"
    record = files.read_json(path)
    assert set(record["files"]) == {"table1.csv", "table1_more.csv", "verdicts.csv"}
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1', 1))
    for read in (report.build, claims.ledger):
        with pytest.raises(GradlabError, match=r"provenance\.json was modified after its study wrote it"):
            read(done)
    runner.run(["table1"], out=done, request=Request(options=gl.training.RunOptions(resume=True)))
    assert digests.read_record(done / "table1")["seed"] == 0


def test_a_picture_that_was_changed_is_told(done):
    hurt = bytearray(PNG)
    hurt[45] ^= 1
    (done / "table1" / "table1.png").write_bytes(bytes(hurt))
    with pytest.raises(GradlabError, match="a checksum inside it does not match"):
        report.build(done)
    (done / "table1" / "table1.png").write_bytes(PNG[:-3])
    with pytest.raises(GradlabError, match="a checksum inside it does not match"):
        report.build(done)
