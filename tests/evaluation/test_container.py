from __future__ import annotations

import struct
import zlib

import pytest
import torch

import gradlab as gl
from gradlab.errors import GradlabError
from gradlab.evaluation import Container, decode, encode, pack, rate_distortion, read, unpack, write
from gradlab.evaluation.bitstream import crop, pad
from gradlab.evaluation.container import HEAD
from tests.codecs.codec_zoo import NAMES, build

SIZE = (50, 71)  # no multiple of anything


def image(seed=0):
    return torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(seed))


def finished(name, **options):
    codec = build(name, **options)
    codec.finish()
    return codec.eval()


@pytest.fixture(scope="module")
def codec():
    return finished("small-hyperprior")


@pytest.fixture(scope="module")
def data(codec):
    return encode(codec, image())


def sealed(body):
    return body + struct.pack("<I", zlib.crc32(body))


@pytest.mark.parametrize("name", NAMES)
def test_every_codec_comes_back_bit_for_bit(name, tmp_path):
    codec, x = finished(name), image()
    data = encode(codec, x)
    padded, margins = pad(x[None], codec.downsampling_factor)
    with torch.no_grad():
        stream = codec.compress(padded)
        expected = crop(codec.decompress(**stream)["x_hat"], margins)[0]
    assert unpack(data).strings == tuple(s[0] for s in stream["strings"])
    assert unpack(data).size == SIZE
    assert unpack(data).shape == tuple(stream["shape"])
    write(tmp_path / "x.glc", data)
    got = decode(codec, read(tmp_path / "x.glc"))
    assert got.shape == x.shape
    assert torch.equal(got, expected)


def test_the_container_costs_what_its_docstring_says_and_no_rate_counts_it(codec, data):
    strings = unpack(data).strings
    assert len(data) - sum(map(len, strings)) == 42
    assert len(encode(finished("bmshj2018-factorized"), image())) - 38 > 0
    row = rate_distortion(codec, [image()], 0.01).iloc[0]
    assert row["bpp"] == pytest.approx(8 * sum(map(len, strings)) / (SIZE[0] * SIZE[1]), rel=1e-12)


def test_bytes_and_floats_of_one_picture_are_one_stream(codec):
    photograph = gl.data.embedded("test")[0]
    small = photograph._replace(pixels=photograph.pixels[:, :40, :40].contiguous())
    assert encode(codec, small) == encode(codec, small.pixels) == encode(codec, small.pixels.float() / 255)


def test_a_training_codec_encodes_and_stays_in_training(codec, data):
    codec.train()
    assert encode(codec, image()) == data
    decode(codec, data)
    assert codec.training
    codec.eval()


def test_every_truncation_is_told(data):
    for length in range(len(data)):
        with pytest.raises(GradlabError, match=r"is damaged|are damaged"):
            unpack(data[:length])


def test_every_flipped_bit_is_told(data):
    for bit in range(8 * len(data)):
        hurt = bytearray(data)
        hurt[bit // 8] ^= 1 << bit % 8
        with pytest.raises(GradlabError, match=r"is damaged|are damaged"):
            unpack(bytes(hurt))


def test_an_extended_stream_is_told(data):
    with pytest.raises(GradlabError, match=f"has {len(data) + 1} bytes, but its header claims {len(data)}"):
        unpack(data + b"\0")


@pytest.mark.parametrize("other", [{"direct_y": True, "trained": True}, None])
def test_a_stream_of_another_model_is_refused(data, other):
    codec = finished("bmshj2018-hyperprior") if other is None else finished("small-hyperprior", **other)
    with pytest.raises(GradlabError, match="written by another model"):
        decode(codec, data)


def test_one_changed_weight_makes_another_model(data):
    codec = finished("small-hyperprior")
    decode(codec, data)
    with torch.no_grad():
        codec.g_s[0].bias[0] += 1e-6
    with pytest.raises(GradlabError, match="written by another model"):
        decode(codec, data)


def test_forged_headers_are_refused_before_anything_is_allocated(codec, data):
    whole = unpack(data)
    huge = HEAD.pack(b"\x89GLC", 1, 2, bytes.fromhex(whole.fingerprint), *SIZE, *whole.shape)
    with pytest.raises(GradlabError, match="bytes, but its header claims"):
        unpack(sealed(huge + struct.pack("<2I", 2**32 - 1, 2**32 - 1)))
    bomb = HEAD.pack(b"\x89GLC", 1, 1, bytes.fromhex(whole.fingerprint), 2**31, 2**31, 1, 1)
    with pytest.raises(GradlabError, match="more than 80 million pixels"):
        unpack(sealed(bomb + struct.pack("<I", 0)))
    none = HEAD.pack(b"\x89GLC", 1, 1, bytes.fromhex(whole.fingerprint), 0, 5, 1, 1)
    with pytest.raises(GradlabError, match="claims an image of 0 x 5"):
        unpack(sealed(none + struct.pack("<I", 0)))
    with pytest.raises(GradlabError, match="claims 3 strings"):
        unpack(sealed(data[:5] + b"\3" + data[6:-4]))
    with pytest.raises(GradlabError, match="claims version 2"):
        unpack(sealed(data[:4] + b"\2" + data[5:-4]))
    with pytest.raises(GradlabError, match=r"has shape \(4, 5\), but its header claims \(9, 5\)"):
        decode(codec, pack(whole._replace(shape=(9, 5))))
    with pytest.raises(GradlabError, match="number of its strings is 1, but this codec writes 2"):
        decode(codec, pack(whole._replace(strings=whole.strings[:1])))


def test_forged_strings_decode_to_a_picture_or_are_refused(codec, data):
    whole, source = unpack(data), torch.Generator().manual_seed(0)
    for _ in range(20):
        lengths = torch.randint(0, 40, (2,), generator=source).tolist()
        strings = [bytes(torch.randint(0, 256, (n,), generator=source, dtype=torch.uint8).tolist()) for n in lengths]
        try:
            x = decode(codec, pack(whole._replace(strings=tuple(strings))))
        except GradlabError:
            continue
        assert x.shape == (3, *SIZE)
        assert bool(((x >= 0) & (x <= 1)).all())


@pytest.mark.parametrize(
    ("container", "message"),
    [
        (Container("00" * 8, SIZE, (4, 5), ()), "not a tuple of 1 to 2 byte strings"),
        (Container("00" * 8, SIZE, (4, 5), ("y",)), "not a tuple of 1 to 2 byte strings"),
        (Container("00" * 9, SIZE, (4, 5), (b"",)), "the format cannot represent"),
        (Container("zz", SIZE, (4, 5), (b"",)), "the format cannot represent"),
        (Container("00" * 8, (0, 4), (4, 5), (b"",)), "claims an image of 0 x 4"),
        (Container("00" * 8, (10**5, 10**5), (4, 5), (b"",)), "more than 80 million pixels"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(container, message):
    with pytest.raises(GradlabError, match=message):
        pack(container)


def test_files(tmp_path, codec, data):
    with pytest.raises(GradlabError, match="cannot read"):
        read(tmp_path / "none.glc")
    with pytest.raises(GradlabError, match="is damaged"):
        write(tmp_path / "x.glc", data[:-1])
    assert not list(tmp_path.iterdir())
    (tmp_path / "x.glc").write_bytes(data[:-1])
    with pytest.raises(GradlabError, match=r"x\.glc: the bitstream is damaged"):
        read(tmp_path / "x.glc")


def test_tables_are_needed():
    codec = build("small-hyperprior")
    with pytest.raises(GradlabError, match=r"call codec\.finish"):
        encode(codec, image())
    with pytest.raises(GradlabError, match=r"call codec\.finish"):
        decode(codec, b"")
