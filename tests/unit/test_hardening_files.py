"""Broken and hostile weight files: refused in one line, never run, never larger than they are."""

import io
import json
import pickle
import struct
import time
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from hallo_live_core.checkpoints.convert import convert
from hallo_live_core.checkpoints.files import read_file
from hallo_live_core.checkpoints.safetensors_writer import write_safetensors
from hallo_live_core.checkpoints.tiny import write_bytes, write_tiny_models
from hallo_live_core.errors import CheckpointError, MediaError
from hallo_live_core.media.mp4 import Mp4Writer

quick = settings(max_examples=80, deadline=None, database=None, derandomize=True)


def pickled(content, **how) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **how)
    return buffer.getvalue()


TENSORS = {"a.weight": torch.ones(4, 3), "b": torch.arange(5)}
WHOLE = {
    "x.safetensors": save(TENSORS, {"who": "me"}),
    "x.pt": pickled(TENSORS | {"epoch": 3}),
    "x.pth": pickled({"generator": TENSORS}, _use_new_zipfile_serialization=False),
}


class Sentinel:
    """Unpickling this would raise what nothing else raises."""

    def __reduce__(self):
        return exec, ("raise BaseException('code of a file was run')",)


def read(path) -> dict | None:
    """The tensors, all of them touched; None if the file was refused in one line."""
    tensors, refusal = None, ""
    try:
        tensors = read_file(path).tensors
    except CheckpointError as error:
        refusal = str(error)
    if tensors is None:
        assert refusal and "\n" not in refusal and len(refusal) < 1000
        return None
    for tensor in tensors.values():
        tensor.sum()
    return tensors


cuts = st.tuples(st.just("cut"), st.integers(0, 2**16), st.integers(1, 40))
flips = st.tuples(st.just("flip"), st.integers(0, 2**16), st.integers(1, 255))
inserts = st.tuples(st.just("insert"), st.integers(0, 2**16), st.binary(min_size=1, max_size=9))
ends = st.tuples(st.just("end"), st.integers(0, 2**16), st.none())


def damaged(content: bytes, changes) -> bytes:
    for kind, place, value in changes:
        at = place % max(1, len(content))
        if kind == "cut":
            content = content[:at] + content[at + value :]
        elif kind == "flip":
            content = content[:at] + bytes([content[at] ^ value]) + content[at + 1 :]
        elif kind == "insert":
            content = content[:at] + value + content[at:]
        else:
            content = content[:at]
        content = content or b"\0"
    return content


@pytest.mark.parametrize("name", WHOLE)
@quick
@given(changes=st.lists(st.one_of(cuts, flips, inserts, ends), min_size=1, max_size=3))
def test_a_damaged_file_is_refused_or_still_holds_tensors(tmp_path_factory, name, changes):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(damaged(WHOLE[name], changes))
    read(path)


headers = st.recursive(
    st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=5), st.just("F32")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["a", "dtype", "shape", "data_offsets", "__metadata__"]), inner
        ),
    ),
    max_leaves=12,
)
dtypes = st.sampled_from(["F32", "BF16", "F8_E4M3", "F8_E8M0", "F4", "I64", "BOOL", "U16", "Q"])
numbers = st.one_of(st.integers(0, 9), st.sampled_from([-1, 2**31, 2**62, 2**64, 10**30]))
entry = st.fixed_dictionaries(
    {"dtype": dtypes, "shape": st.lists(numbers, max_size=3), "data_offsets": st.lists(numbers)}
)


@settings(quick, max_examples=40)
@given(
    header=st.one_of(headers, st.dictionaries(st.sampled_from("ab"), entry, max_size=2)),
    length=st.one_of(st.none(), st.sampled_from([0, 1, 2**20, 2**40, 2**64 - 1])),
    data=st.binary(max_size=40),
)
def test_any_header_is_refused_or_holds_tensors(tmp_path_factory, header, length, data):
    text = json.dumps(header).encode()
    path = tmp_path_factory.getbasetemp() / "header.safetensors"
    size = len(text) if length is None else length
    path.write_bytes(struct.pack("<Q", size) + text + data)
    read(path)


@pytest.mark.parametrize("length", [2**30, 2**62, 2**64 - 1])
def test_an_absurd_header_length_is_refused_before_memory_is_taken(tmp_path, length):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}" + bytes(100))
    with pytest.raises(CheckpointError, match="incomplete or damaged"):
        read_file(path)


@pytest.mark.parametrize(
    "content",
    [
        Sentinel(),
        [Sentinel()],
        {"a": torch.ones(2), "b": Sentinel()},
        {"generator": {"a": torch.ones(2)}, "optimizer": {"state": [{"x": (Sentinel(),)}]}},
    ],
    ids=["alone", "list", "beside tensors", "deep"],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("kind", ["zip", "legacy", "plain"])
def test_code_in_a_pickle_never_runs(tmp_path, content, protocol, kind):
    path = tmp_path / "x.pt"
    if kind == "plain":
        path.write_bytes(pickle.dumps(content, protocol))
    else:
        new = kind == "zip"
        how = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": new}
        path.write_bytes(pickled(content, **how))
    assert read(path) is None


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**26))
        archive.writestr("archive/version", "3\n")
    assert path.stat().st_size < 2**17
    with pytest.raises(CheckpointError, match="compressed archive and was not opened"):
        read_file(path)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(1).expand(2**40),
        torch.zeros(3).as_strided((2**20, 3), (0, 1)),
        torch.empty(5, device="meta"),
        torch.eye(3).to_sparse(),
    ],
    ids=["expanded", "strided", "meta", "sparse"],
)
def test_a_tensor_that_promises_more_than_the_file_holds_is_refused(tmp_path, tensor):
    path = tmp_path / "x.pt"
    path.write_bytes(pickled({"ok": torch.ones(2), "huge": tensor}))
    # Newer versions of torch already warn of sparse tensors, which tests take for damage.
    with pytest.raises(CheckpointError, match=r"huge \[|[Ss]parse"):
        read_file(path)


def test_entries_that_refer_to_themselves_without_end_cost_no_time(tmp_path):
    laughs = ["ha"]
    for _ in range(40):
        laughs = [laughs, laughs]
    circle = []
    circle.append(circle)
    content = {"state_dict": {"a": torch.ones(2)}, "laughs": laughs, "circle": circle, "rank": 4}
    path = tmp_path / "x.pt"
    path.write_bytes(pickled(content))
    started = time.monotonic()
    assert read_file(path).metadata == {"rank": "4"}
    assert time.monotonic() - started < 5


def test_a_file_nobody_may_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.pt"
    path.write_bytes(WHOLE["x.pt"])

    def forbid(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", forbid)
    with pytest.raises(CheckpointError, match=r"x\.pt cannot be read.*Permission denied"):
        read_file(path)


# ── Nothing is written through a link ──────────────────────────────────────────────────────────


@pytest.fixture(params=["precious", "dangling"])
def link(request, tmp_path):
    """A link with the name of an output, to a file elsewhere that must stay as it is."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if request.param == "precious":
        (elsewhere / "mine").write_text("mine")

    def make(name: str):
        place = tmp_path / name
        place.parent.mkdir(exist_ok=True, parents=True)
        place.symlink_to(elsewhere / "mine")
        return place

    yield make
    assert [file.read_text() for file in elsewhere.iterdir()] in (["mine"], [])


@pytest.mark.parametrize(
    "write",
    [
        lambda path: convert(path.with_name("source.pt"), path),
        lambda path: write_safetensors(path, TENSORS, metadata={}),
        lambda path: write_bytes(path, b"new"),
        lambda path: Mp4Writer(path.with_suffix(".mp4")),
    ],
    ids=["convert", "safetensors", "bytes", "clip"],
)
def test_a_link_in_place_of_an_output_is_refused_and_named(link, write):
    path = link("out.safetensors")
    link("out.mp4")
    with pytest.raises((CheckpointError, MediaError), match=r"is a link .* leads to .*mine"):
        write(path)
    assert path.is_symlink()


def test_a_link_in_place_of_an_unfinished_file_is_not_followed(link, tmp_path):
    link("x.safetensors.part")
    write_safetensors(tmp_path / "x.safetensors", TENSORS, metadata={})
    link("y.bin.part")
    write_bytes(tmp_path / "y.bin", b"new")
    assert not (tmp_path / "x.safetensors").is_symlink()
    assert (tmp_path / "y.bin").read_bytes() == b"new"
    link("clip.partial.mp4")
    with pytest.raises(MediaError, match="is a link"):
        Mp4Writer(tmp_path / "clip.mp4")


def test_the_tiny_models_replace_no_link_to_a_real_model(link, tmp_path):
    models = tmp_path / "models"
    real = link("models/v1-16.pth")
    with pytest.raises(CheckpointError, match=r"v1-16\.pth is a link"):
        write_tiny_models(models)
    assert real.is_symlink()


def test_the_tiny_models_replace_no_real_model(tmp_path):
    real = tmp_path / "Wan2.2_VAE.pth"
    with real.open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(CheckpointError, match=r"VAE\.pth is no tiny model.*2,147,483,648 bytes"):
        write_tiny_models(tmp_path)
    assert list(tmp_path.iterdir()) == [real] and real.stat().st_size == 2**31


def test_folders_that_are_links_are_written_into(tmp_path):
    (tmp_path / "big disk").mkdir()
    (tmp_path / "models").symlink_to(tmp_path / "big disk")
    write_safetensors(tmp_path / "models" / "x.safetensors", TENSORS, metadata={})
    assert (tmp_path / "big disk" / "x.safetensors").is_file()
