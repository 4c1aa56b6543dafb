"""The wire format: there and back, foreign files, and what damaged files do."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hauberk.errors import ModelError
from hauberk.layered import Builder, ops
from hauberk.layered.from_onnx import from_onnx
from hauberk.layered.onnx_file import read_onnx
from hauberk.layered.to_onnx import to_onnx
from hauberk.layered.wire import Field, Schema, decode, encode

INNER: Schema = {1: Field("name", "text"), 3: Field("sizes", "int", many=True)}
OUTER: Schema = {
    1: Field("count", "int"),
    2: Field("ratio", "float"),
    4: Field("exact", "double"),
    5: Field("floats", "float", many=True),
    6: Field("raw", "bytes"),
    16: Field("inner", INNER, many=True),
    17: Field("doubles", "double", many=True),
}
WHOLE = st.integers(-(2**63), 2**63 - 1)
EXACT = st.floats(allow_nan=False)
SINGLE = st.floats(allow_nan=False, width=32)
RECORDS = st.fixed_dictionaries(
    {
        "count": st.none() | WHOLE,
        "ratio": st.none() | SINGLE,
        "exact": st.none() | EXACT,
        "floats": st.lists(SINGLE),
        "raw": st.none() | st.binary(),
        "inner": st.lists(st.fixed_dictionaries({"name": st.none() | st.text(), "sizes": st.lists(WHOLE)})),
        "doubles": st.lists(EXACT),
    }
)


@given(RECORDS)
def test_what_is_encoded_is_decoded(record: dict[str, Any]) -> None:
    assert decode(encode(record, OUTER), OUTER) == record


@given(st.binary(max_size=200))
def test_random_bytes_are_a_record_or_one_sentence(data: bytes) -> None:
    try:
        found = decode(data, OUTER)
    except ModelError:
        return
    assert set(found) == {field.name for field in OUTER.values()}


def test_fields_that_nobody_named_are_skipped() -> None:
    data = encode({"count": 3, "raw": b"abc", "inner": [{"name": "n"}]}, OUTER)
    assert decode(data, {1: Field("count", "int")}) == {"count": 3}


def test_numbers_that_are_not_packed_are_read_too() -> None:
    assert decode(b"\x18\x05\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", INNER)["sizes"] == [5, -1]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x0a\xff\x01", "of 255 bytes stands where 0 are left"),
        (b"\x08", "ends in the middle of a number"),
        (b"\x08" + b"\xff" * 11, "more than 64 bits"),
        (b"\x0b", "the wire type 3"),
        (b"\x00\x01", "the number 0"),
        (b"\x15\x00\x00", "of 4 bytes stands where 2 are left"),
        (b"\x0a\x01a", "'count' has the wire type 2"),
    ],
)
def test_damage_is_told(data: bytes, what: str) -> None:
    with pytest.raises(ModelError, match=what):
        decode(data, OUTER)


def net(path: Path) -> Path:
    builder = Builder((1, 6, 6))
    conv = builder.add(ops.Conv(torch.ones(2, 1, 3, 3), torch.ones(2)), 0)
    relu = builder.add(ops.Elementwise("relu"), conv)
    pooled = builder.add(ops.MaxPool((2, 2), (2, 2)), relu)
    builder.add(ops.Linear(torch.ones(3, 8)), builder.add(ops.Reshape((8,)), pooled))
    to_onnx(builder.finish(), path)
    return path


def test_every_truncation_is_one_sentence(tmp_path: Path) -> None:
    data = net(tmp_path / "net.onnx").read_bytes()
    for size in range(len(data)):
        (tmp_path / "cut.onnx").write_bytes(data[:size])
        with pytest.raises(ModelError) as told:
            from_onnx(tmp_path / "cut.onnx")
        assert "\n" not in str(told.value)


def test_flipped_bytes_are_a_graph_or_one_sentence(tmp_path: Path) -> None:
    data, rng = net(tmp_path / "net.onnx").read_bytes(), np.random.default_rng(0)
    started, refused = time.monotonic(), 0
    for _ in range(400):
        changed = np.frombuffer(data, dtype=np.uint8).copy()
        places = rng.integers(0, len(data), size=rng.integers(1, 4))
        changed[places] = rng.integers(0, 256, size=len(places))
        (tmp_path / "flipped.onnx").write_bytes(changed.tobytes())
        try:
            from_onnx(tmp_path / "flipped.onnx")
        except ModelError:
            refused += 1
    assert refused > 50
    assert time.monotonic() - started < 60


def test_files_that_are_not_onnx(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match="holds no graph"):
        from_onnx(tmp_path / "empty.onnx")
    with pytest.raises(ModelError, match="cannot be read"):
        from_onnx(tmp_path / "missing.onnx")
    (tmp_path / "text.onnx").write_text("this is a text, and no network at all\n")
    with pytest.raises(ModelError, match=r"text.onnx: the file is not ONNX or is damaged"):
        from_onnx(tmp_path / "text.onnx")


KINDS = ["float32", "float64", "float16", "int64", "int32", "int8", "uint8", "uint16", "bool", "uint64"]


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_tensors_of_the_onnx_package_are_read(tmp_path: Path, kind: str, raw: bool) -> None:
    onnx = pytest.importorskip("onnx", reason="writes the file")
    values = (np.arange(6).reshape(2, 3) - (0 if kind[0] in "ub" else 3)).astype(kind)
    dtype = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
    held = values.tobytes() if raw else values.reshape(-1).tolist()
    tensor = onnx.helper.make_tensor("t", dtype, values.shape, held, raw=raw)
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [tensor])), str(tmp_path / "net.onnx"))
    found = read_onnx(tmp_path / "net.onnx").constants["t"]
    assert found.dtype == values.dtype
    assert np.array_equal(found, values)


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="writes the file")
    model = onnx.load(str(net(tmp_path / "net.onnx")))
    for tensor in model.graph.initializer:
        onnx.external_data_helper.set_external_data(tensor, "net.data")
    onnx.save(model, str(tmp_path / "out.onnx"), save_as_external_data=True, location="out.data", size_threshold=0)
    assert (tmp_path / "out.data").exists()
    x = torch.rand(2, 1, 6, 6)
    assert torch.equal(from_onnx(tmp_path / "out.onnx")(x), from_onnx(tmp_path / "net.onnx")(x))
    (tmp_path / "out.data").write_bytes(b"short")
    with pytest.raises(ModelError, match=r"in out.data, which is too short"):
        from_onnx(tmp_path / "out.onnx")
    (tmp_path / "out.data").unlink()
    with pytest.raises(ModelError, match=r"in out.data, which cannot be read; keep both together"):
        from_onnx(tmp_path / "out.onnx")


def test_weights_elsewhere_are_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="writes the file")
    model = onnx.load(str(net(tmp_path / "net.onnx")))
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    onnx.external_data_helper.set_external_data(tensor, "../secret")
    (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="expected a file beside it"):
        from_onnx(tmp_path / "bad.onnx")
