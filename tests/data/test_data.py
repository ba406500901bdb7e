"""Photographs: what is read, what is refused, and crops that depend on seed and step alone."""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from gradlab.data import Crops, Picture, embedded, fingerprint, load, read_image
from gradlab.data import images as images_module
from gradlab.errors import GradlabError


def noise(height, width, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def saved(tmp_path, image, name="a.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def test_pixels_come_back(tmp_path):
    pixels = noise(5, 7)
    for name in ("a.png", "a.bmp", "a.ppm", "a.tif"):
        image = read_image(saved(tmp_path, Image.fromarray(pixels), name))
        assert image.dtype == torch.uint8 and image.shape == (3, 5, 7) and image.is_contiguous()
        assert (image.numpy().transpose(1, 2, 0) == pixels).all()
    assert read_image(saved(tmp_path, Image.fromarray(pixels), "a.jpg")).shape == (3, 5, 7)
    assert read_image(str(saved(tmp_path, Image.fromarray(pixels), "a.webp", lossless=True))).shape == (3, 5, 7)


def test_grey_palette_and_opaque_images_become_rgb(tmp_path):
    grey = noise(4, 6, 1)
    image = read_image(saved(tmp_path, Image.fromarray(grey)))
    assert (image.numpy() == grey[None]).all()
    palette = Image.fromarray(noise(4, 6)).quantize(16)
    expected = np.asarray(palette.convert("RGB")).transpose(2, 0, 1)
    assert (read_image(saved(tmp_path, palette)).numpy() == expected).all()
    rgba = np.dstack([noise(4, 6), np.full((4, 6), 255, np.uint8)])
    assert (read_image(saved(tmp_path, Image.fromarray(rgba))).numpy() == rgba[..., :3].transpose(2, 0, 1)).all()
    bits = Image.fromarray(grey).convert("1")
    assert set(read_image(saved(tmp_path, bits)).unique().tolist()) <= {0, 255}


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.fromarray(np.full((4, 4, 3), v, np.uint8)) for v in (10, 200)]
    path = tmp_path / "a.webp"
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    assert (read_image(path) == 10).all()


def png(width, height, depth, colour, raw=b""):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def test_images_that_are_not_8_bit_rgb_are_refused(tmp_path):
    deep = Image.fromarray(noise(4, 4, 1).astype(np.uint16) * 257)
    for name in ("a.png", "a.tif"):
        with pytest.raises(
            GradlabError, match=r"a\.(png|tif) has more than 8 bits per channel: convert it to 8-bit RGB"
        ):
            read_image(saved(tmp_path, deep, name))
    path = tmp_path / "rgb16.png"  # Pillow would open it as 8-bit RGB
    path.write_bytes(png(2, 2, 16, 2, b"".join(b"\0" + bytes(12) for _ in range(2))))
    with pytest.raises(GradlabError, match="more than 8 bits"):
        read_image(path)
    with pytest.raises(GradlabError, match="more than 8 bits"):
        read_image(saved(tmp_path, Image.fromarray(np.ones((4, 4), np.float32)), "f.tif"))
    for mode, name in (("CMYK", "c.jpg"), ("CMYK", "c.tif"), ("LAB", "l.tif")):
        with pytest.raises(GradlabError, match=f"is a {mode} image: convert it to 8-bit RGB"):
            read_image(saved(tmp_path, Image.new(mode, (4, 4)), name))
    clear = np.dstack([noise(4, 4), np.full((4, 4), 254, np.uint8)])
    for name in ("a.png", "a.webp"):
        with pytest.raises(GradlabError, match="partly transparent"):
            read_image(saved(tmp_path, Image.fromarray(clear), name))
    gif = Image.fromarray(noise(4, 4)).quantize(8)
    with pytest.raises(GradlabError, match="partly transparent"):
        read_image(saved(tmp_path, gif, "a.gif", transparency=int(np.asarray(gif)[0, 0])))


def test_files_that_are_no_images(tmp_path):
    with pytest.raises(GradlabError, match=r"there is no image .*none\.png: check the path"):
        read_image(tmp_path / "none.png")
    with pytest.raises(GradlabError, match="cannot be read"):
        read_image(tmp_path)
    for content in (b"", b"hello", bytes(1000)):
        (tmp_path / "text.png").write_bytes(content)
        with pytest.raises(GradlabError, match="is not an image"):
            read_image(tmp_path / "text.png")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow on damaged tags
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.tif"])
def test_truncated_and_damaged_files_end_in_a_clear_error(tmp_path, name):
    raw = saved(tmp_path, Image.fromarray(noise(40, 40)), name).read_bytes()
    path = tmp_path / f"cut-{name}"
    path.write_bytes(raw[: len(raw) * 2 // 3])
    with pytest.raises(GradlabError, match=r"truncated or damaged|is not an image"):
        read_image(path)
    rng = np.random.default_rng(1)
    for _ in range(60):
        damaged = bytearray(raw)
        for at in rng.integers(0, min(len(raw), 300), 4):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(GradlabError):
            assert read_image(path).dtype == torch.uint8


@pytest.mark.filterwarnings("ignore:Image size")
def test_decompression_bombs_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    for side in (9_000, 9_600, 40_000):  # below, inside and above Pillow's own limits
        path.write_bytes(png(side, side, 8, 2, b""))
        with pytest.raises(GradlabError, match="more than 80 million pixels"):
            read_image(path)
    monkeypatch.setattr(images_module, "MAX_BYTES", 10)
    with pytest.raises(GradlabError, match="MiB: give a smaller image"):
        read_image(path)


def test_load_folder(tmp_path):
    for name in ("b.png", "A.JPG", "c.webp"):
        Image.fromarray(noise(8, 9, seed=ord(name[0]))).save(tmp_path / name, format="PNG")
    (tmp_path / "SOURCES.md").write_text("terms")
    (tmp_path / "deeper").mkdir()
    Image.fromarray(noise(8, 8)).save(tmp_path / "deeper" / "d.png")
    pictures = load(tmp_path, "train", 8)
    assert [p.name for p in pictures] == ["A.JPG", "b.png", "c.webp"]
    assert pictures[1].sha256 == hashlib.sha256((tmp_path / "b.png").read_bytes()).hexdigest()
    with pytest.raises(GradlabError, match=r"A.JPG has 9 x 8 pixels, too small for 9 x 9"):
        load(tmp_path, "train", 9)


def test_load_bad_folders(tmp_path):
    with pytest.raises(GradlabError, match="there is no folder"):
        load(tmp_path / "none", "train", 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(GradlabError, match="is not a folder"):
        load(tmp_path / "file", "train", 1)
    with pytest.raises(GradlabError, match="there are no images in"):
        load(tmp_path, "train", 1)
    (tmp_path / "broken.png").write_bytes(b"x")
    with pytest.raises(GradlabError, match=r"broken.png is not an image"):
        load(tmp_path, "train", 1)


def test_embedded_photographs():
    train, test = embedded("train"), embedded("test")
    assert len(train) >= 6 and len(test) >= 3
    assert not {p.sha256 for p in train} & {p.sha256 for p in test}
    assert {p.name for p in test} >= {"astronaut.png", "chelsea.png"}
    assert all(min(p.pixels.shape[1:]) >= 256 and p.pixels.float().std() > 10 for p in train + test)
    assert any(p.pixels.shape[1] % 64 for p in test)
    assert [p.name for p in load(None, "test", 256)] == [p.name for p in test]
    with pytest.raises(GradlabError, match="did you mean 'train'"):
        embedded("trian")


def test_embedded_imports_no_skimage(monkeypatch):
    plain = builtins.__import__

    def watched(name, *args, **kwargs):
        assert not name.startswith("skimage")
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", watched)
    assert embedded("test")


def pictures():
    """Pixels that tell where they come from: picture, row, column."""
    out = []
    for i, (height, width) in enumerate([(20, 30), (16, 16), (40, 17)]):
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        out.append(Picture(f"{i}", torch.stack([torch.full_like(rows, i), rows, columns]).to(torch.uint8), str(i)))
    return out


def test_crops_are_windows_of_the_pictures():
    crops = Crops(pictures(), 16, 64, seed=1)
    places, mirrored = [], 0
    for step in range(30):
        batch = crops.batch(step)
        assert batch.shape == (64, 3, 16, 16) and batch.dtype == torch.float32
        values = (batch * 255).round().long()
        for which, rows, columns in values:
            step_right = int(columns[0, 1] - columns[0, 0])
            assert abs(step_right) == 1 and (rows[1:] - rows[:-1] == 1).all() and len(which.unique()) == 1
            assert (columns[:, 1:] - columns[:, :-1] == step_right).all()
            mirrored += step_right < 0
            places.append((int(which[0, 0]), int(rows.min()), int(columns.min())))
    n = 30 * 64
    assert abs(mirrored - n / 2) / (n**0.5 / 2) < 4.5
    # Every picture alike, and every window of it: 5 x 15, 1 and 25 x 2.
    for i, windows in enumerate([75, 1, 50]):
        of = [p for p in places if p[0] == i]
        assert abs(len(of) - n / 3) / (n * 2 / 9) ** 0.5 < 4.5
        assert len(set(of)) == windows


def test_crops_depend_on_seed_and_step_alone():
    a, b = Crops(pictures(), 8, 5, seed=3), Crops(pictures(), 8, 5, seed=3)
    late = b.batch(7)
    [b.batch(s) for s in range(3)]
    assert torch.equal(a.batch(7), late) and torch.equal(b.batch(7), late)
    assert not torch.equal(a.batch(8), late)
    assert not torch.equal(Crops(pictures(), 8, 5, seed=4).batch(7), late)
    state = torch.random.get_rng_state()
    a.batch(1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_crops_without_flips_and_their_errors():
    values = Crops(pictures(), 16, 50, seed=0, flips=False).batch(0)
    assert (values[:, 2, 0, 1] > values[:, 2, 0, 0]).all()
    with pytest.raises(GradlabError, match="no pictures to crop"):
        Crops([], 8, 1, 0)
    with pytest.raises(GradlabError, match=r"1 has 16 x 16 pixels, too small for crops of 17"):
        Crops(pictures()[1:], 17, 1, 0)
    for size, batch in ((0, 1), (8, 0)):
        with pytest.raises(GradlabError, match=r"is 0: give a whole number of (pixels|crops), at least 1"):
            Crops(pictures(), size, batch, 0)
    with pytest.raises(GradlabError, match="step is -1: give a whole number of at least 0"):
        Crops(pictures(), 8, 1, 0).batch(-1)


def test_fingerprint_sees_names_shapes_and_pixels():
    one = pictures()
    assert fingerprint(one) == fingerprint(pictures())
    renamed = [one[0]._replace(name="x"), *one[1:]]
    changed = [one[0]._replace(pixels=one[0].pixels + 1), *one[1:]]
    shaped = [one[0]._replace(pixels=one[0].pixels.reshape(3, 30, 20)), *one[1:]]
    assert len({fingerprint(p) for p in (one, renamed, changed, shaped, one[::-1], one[1:])}) == 6
