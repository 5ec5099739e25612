"""Files that are no good checkpoints, each under the number that the list of bad inputs gives it."""

from __future__ import annotations

import json
import os
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn

STATE = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.tensor([1.0, -1.0])}
Make = Callable[[Path], object]


@dataclass(frozen=True)
class Bad:
    """A path that is refused, with a part of what is said of it."""

    number: int
    what: str
    name: str
    make: Make
    says: str

    @property
    def id(self) -> str:
        return f"{self.number:02d}-{self.what.replace(' ', '-')}"


class Evil:
    """Would write a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.system, (f"touch {self.path}",)


def packed(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file of any header, given as text, bytes or an object."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    """What a header says of one tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def tensors(data: int = 8, **entries: object) -> Make:
    """A safetensors file of these tensors and so many bytes."""
    return lambda path: path.write_bytes(packed(entries, bytes(data)))


def content(data: bytes) -> Make:
    return lambda path: path.write_bytes(data)


def saved(value: object, **options: Any) -> Make:
    def make(path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(value, path, **options)

    return make


def cut(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def truncated_zip(path: Path) -> None:
    torch.save(STATE, path)
    cut(path, 200)


def truncated_safetensors(path: Path) -> None:
    save_file(STATE, path)
    cut(path, 4)


def script(path: Path) -> None:
    """A zip archive as torch.jit.save lays it out."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("net/data.pkl", "net/constants.pkl", "net/code/__torch__.py"):
            archive.writestr(name, b"x")


def exported(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/archive_format", b"pt2")
        archive.writestr("net/models/model.json", b"{}")


def bomb(path: Path) -> None:
    torch.save(STATE, path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/zeros", bytes(10**7))


def wrong_checksum(path: Path) -> None:
    """Flip one bit of a weight, so that only the checksum of its entry tells."""
    torch.save(STATE, path)
    data = bytearray(path.read_bytes())
    data[data.index(STATE["fc.weight"].numpy().tobytes()) + 2] ^= 1
    path.write_bytes(data)


def spanned(path: Path) -> None:
    """A zip archive whose end says that it goes on on another disk."""
    torch.save(STATE, path)
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x06\x07")
    data[place + 16 : place + 20] = (5).to_bytes(4, "little")
    path.write_bytes(data)


def archive_of(pickled: bytes) -> Make:
    """An archive with a pickle that was not made by torch."""

    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickled)
            archive.writestr("archive/byteorder", b"little")
            archive.writestr("archive/version", b"3\n")

    return make


def cyclic(path: Path) -> None:
    state: dict[str, Any] = dict(STATE)
    state["again"] = state
    torch.save(state, path)


def deep_pickle(path: Path) -> None:
    archive_of(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")(path)


def nested_tensor(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({"w": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}, path)


def gptq(path: Path) -> None:
    packed_state = {"fc.qweight": torch.zeros(2, 3, dtype=torch.int32), "fc.scales": torch.ones(3)}
    save_file({**packed_state, "fc.qzeros": torch.zeros(1, 3, dtype=torch.int32)}, path)


def sharded(folder: Path, index: dict[str, str], pieces: dict[str, dict[str, Tensor]]) -> Path:
    """A folder with an index and its files; returns the folder."""
    folder.mkdir(exist_ok=True)
    for name, state in pieces.items():
        (save_file if name.endswith(".safetensors") else torch.save)(state, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
WEIGHT, BIAS = ({name: STATE[name]} for name in STATE)
BIN = "model-00003-of-00003.bin"
MAP = {"fc.weight": ONE, "fc.bias": TWO}


def shards(index: dict[str, str], *extra: tuple[str, dict[str, Tensor]]) -> Make:
    return lambda path: sharded(path, index, {ONE: WEIGHT, TWO: BIAS, **dict(extra)})


def leaves(folder: Path) -> None:
    sharded(folder, MAP, {ONE: WEIGHT})
    save_file(BIAS, folder.parent / "elsewhere.safetensors")
    (folder / TWO).symlink_to(folder.parent / "elsewhere.safetensors")


def distributed(folder: Path) -> None:
    folder.mkdir()
    (folder / ".metadata").write_bytes(pickle.dumps({}))
    (folder / "__0_0.distcp").write_bytes(b"PK\x03\x04")


def index_text(text: str) -> Make:
    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / "model.safetensors.index.json").write_text(text)

    return make


LARGE = 2**62
BAD = [
    Bad(1, "missing", "missing.pt", lambda path: None, "no such file"),
    Bad(1, "a name too long", "x" * 300, lambda path: None, "File name too long"),
    Bad(2, "empty", "empty.pt", lambda p: p.touch(), "is empty"),
    Bad(3, "directory without weights", "dir", lambda p: p.mkdir(), "a directory with weights in none"),
    Bad(4, "fifo", "fifo.pt", lambda p: os.mkfifo(p), "is not a regular file and was not opened"),
    Bad(4, "device", "zero.pt", lambda p: p.symlink_to("/dev/zero"), "is not a regular file and was not opened"),
    Bad(6, "lfs", "a.safetensors", content(b"version https://git-lfs.github.com/spec/v1\n"), "run git lfs pull"),
    Bad(7, "html", "page.pt", content(b"\n<!DOCTYPE html><html></html>"), "is a web page"),
    Bad(7, "of no format", "random.pt", content(bytes(range(1, 90))), "of no known format"),
    Bad(9, "symlink loop", "loop.pt", lambda p: p.symlink_to(p), "symbolic links"),
    Bad(9, "dangling link", "a.pt", lambda p: p.symlink_to("nowhere.pt"), "a link to a file that is not there"),
    Bad(11, "header over the limit", "a.safetensors", content(packed({}, length=100_000_001)), "100,000,001 bytes"),
    Bad(12, "header longer than the file", "a.safetensors", content(packed({}, length=99)), "the file has 10"),
    Bad(13, "no UTF-8", "a.safetensors", content(packed(b'{"\xff": 1}')), "not UTF-8"),
    Bad(13, "no JSON", "a.safetensors", content(packed(b"{no json}")), "not JSON"),
    Bad(13, "no number of JSON", "a.safetensors", content(packed(b'{"w": NaN}')), "NaN is no number of JSON"),
    Bad(13, "metadata of another kind", "a.safetensors", content(packed({"__metadata__": [1]})), "no texts by name"),
    Bad(13, "tensor of another kind", "a.safetensors", tensors(w=[1]), "w has no dtype, shape and data_offsets"),
    Bad(14, "truncated", "a.safetensors", truncated_safetensors, "it is cut short"),
    Bad(15, "trailing bytes", "a.safetensors", tensors(9, w=entry()), "it has bytes after its last tensor"),
    Bad(16, "hole", "a.safetensors", tensors(24, a=entry(), b=entry(offsets=(16, 24))), "a hole before b"),
    Bad(16, "hole at the start", "a.safetensors", tensors(12, a=entry(offsets=(4, 12))), "a hole before a"),
    Bad(17, "overlap", "a.safetensors", tensors(12, a=entry(), b=entry(offsets=(4, 12))), "an overlap at b"),
    Bad(17, "the same bytes twice", "a.safetensors", tensors(8, a=entry(), b=entry()), "an overlap at b"),
    Bad(18, "shape and span", "a.safetensors", tensors(w=entry(shape=(3,))), "needs 12 bytes"),
    Bad(18, "overflow", "a.safetensors", tensors(w=entry(shape=(2**32, 2**32))), "an impossible shape"),
    Bad(18, "offsets reversed", "a.safetensors", tensors(w=entry(offsets=(8, 0))), "has -8"),
    Bad(19, "negative dimension", "a.safetensors", tensors(w=entry(shape=(-2,))), "a shape that is none"),
    Bad(19, "float dimension", "a.safetensors", tensors(w=entry(shape=(2.0,))), "a shape that is none"),
    Bad(19, "true dimension", "a.safetensors", tensors(4, w=entry(shape=(True,), offsets=(0, 4))), "that is none"),
    Bad(19, "float offsets", "a.safetensors", tensors(w=entry(offsets=(0.0, 8))), "offsets that are none"),
    Bad(20, "unknown dtype", "a.safetensors", tensors(w=entry(dtype="F31")), "a type that is not known: F31"),
    Bad(20, "dtype of another kind", "a.safetensors", tensors(w=entry(dtype=["F32"])), "a type that is not known"),
    Bad(20, "packed dtype", "a.safetensors", tensors(w=entry(dtype="F4")), "which is not read"),
    Bad(
        21,
        "duplicate key",
        "a.safetensors",
        content(packed(b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{}}', bytes(8))),
        "the name 'w' occurs twice",
    ),
    Bad(22, "metadata not text", "a.safetensors", tensors(__metadata__={"a": 1}, w=entry()), "no texts by name"),
    Bad(23, "deep JSON", "a.safetensors", content(packed(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)), "too deep"),
    Bad(24, "no tensors", "a.safetensors", tensors(0), "it holds no tensors"),
    Bad(24, "metadata alone", "a.safetensors", tensors(0, __metadata__={"a": "b"}), "it holds no tensors"),
    Bad(25, "escape codes", "a.safetensors", tensors(**{"\x1b[31m": entry(shape=(3,))}), r"\x1b[31m needs"),
    Bad(25, "markup", "a.safetensors", tensors(**{"<script>": entry(shape=(3,))}), "<script> needs"),
    Bad(25, "path", "a.safetensors", tensors(**{"../../w": entry(shape=(3,))}), "../../w needs"),
    Bad(25, "1 MB", "a.safetensors", tensors(**{"w" * 2**20: entry(shape=(3,))}), "…"),
    Bad(25, "half a surrogate", "a.safetensors", content(packed(b'{"\\ud800": {}}')), "surrogates not allowed"),
    Bad(26, "zero times 2^62", "a.safetensors", tensors(0, w=entry(shape=(0, LARGE), offsets=(0, 0))), "impossible"),
    Bad(27, "malicious", "a.pt", saved({"w": Evil(Path("trap"))}), f"namely {os.system.__module__}.system"),
    *(
        Bad(27, f"malicious pickle {p}", "a.pt", content(pickle.dumps(Evil(Path("trap")), protocol=p)), "can run code")
        for p in (2, 3, 4, 5)
    ),
    Bad(28, "whole module", "module.pt", saved(nn.Linear(2, 2)), "save model.state_dict() and not the model"),
    Bad(29, "TorchScript", "script.pt", script, "TorchScript program, which is not run"),
    Bad(30, "other globals", "a.pt", saved({"w": torch.ones(1), "p": Path("x")}), "namely pathlib."),
    Bad(30, "numpy", "a.pt", saved({"w": torch.ones(2).numpy()}), "namely numpy"),
    Bad(31, "truncated zip", "cut.pt", truncated_zip, "is damaged"),
    Bad(31, "spanned zip", "spanned.pt", spanned, "no whole file"),
    Bad(32, "zip bomb", "bomb.pt", bomb, "would unpack to"),
    Bad(33, "expanded", "a.pt", saved({"w": torch.ones(1).expand(10**12)}), "its memory to 1,000,000,000,000 values"),
    Bad(35, "checksum", "flip.pt", wrong_checksum, "the checksum of its entry flip/data/0 is wrong; copy it again"),
    Bad(36, "deep pickle", "a.pt", deep_pickle, "nested more than 100 deep"),
    Bad(36, "memory of a pickle", "a.pt", archive_of(b"\x80\x02Nr\xff\xff\xff\xff."), "over the limits"),
    Bad(37, "cyclic dict", "a.pt", cyclic, "it contains itself"),
    Bad(38, "list", "list.pt", saved([torch.ones(2)]), "holds a list"),
    Bad(38, "bare tensor", "tensor.pt", saved(torch.ones(2)), "holds a Tensor"),
    Bad(38, "integer keys", "integers.pt", saved({0: torch.ones(2)}), "no tensors by name, but 0"),
    Bad(38, "numbers", "numbers.pt", saved({"epoch": 3}), "no tensors by name, but epoch"),
    Bad(
        39, "two dicts", "a.pt", saved({"model": STATE, "ema": STATE}), "dicts of tensors: model, ema; choose one with"
    ),
    Bad(40, "parent folder", "dir", shards({**MAP, "x": "../x.safetensors"}), "no plain name of a file"),
    Bad(40, "absolute", "dir", shards({**MAP, "x": "/x.safetensors"}), "no plain name of a file"),
    Bad(40, "dots", "dir", shards({**MAP, "x": ".."}), "no plain name of a file"),
    Bad(41, "missing shard", "dir", shards({**MAP, "x": "x.safetensors"}), "'x.safetensors', which is not there"),
    Bad(
        42, "key not in its shard", "dir", shards({"fc.weight": TWO, "fc.bias": ONE}), "2 tensors are not in their file"
    ),
    Bad(
        42, "key in no index", "dir", shards(MAP, (TWO, {**BIAS, "y": torch.ones(1)})), "1 tensors are not in the index"
    ),
    Bad(43, "key in two shards", "dir", shards(MAP, (TWO, {**BIAS, **WEIGHT})), "1 tensors are in two files"),
    Bad(44, "another format", "dir", shards({**MAP, "x": BIN}, (BIN, {"x": torch.ones(1)})), "not of the format"),
    Bad(
        44,
        "another format by its bytes",
        "dir",
        lambda p: (shards(MAP)(p), torch.save(BIAS, p / TWO)),
        "is no safetensors file, as its index says",
    ),
    Bad(44, "index of no map", "dir", index_text('{"weight_map": []}'), "is no index"),
    Bad(44, "index of no JSON", "dir", index_text("{"), "is no index"),
    Bad(44, "index with a name twice", "dir", index_text('{"a": 1, "a": 2}'), "occurs twice"),
    Bad(45, "link that leaves", "dir", leaves, "a link that leaves its folder"),
    Bad(46, "distributed", "dir", distributed, "is a distributed checkpoint"),
    Bad(46, "piece of a distributed one", "a.distcp", content(b"PK\x03\x04"), "a piece of a distributed checkpoint"),
    Bad(46, "exported", "a.pt2", exported, "is an exported program"),
    Bad(46, "exported under another name", "a.pt", exported, "is an exported program"),
    Bad(55, "GGUF", "model.gguf", content(b"GGUF" + bytes(50)), "a quantised GGUF model"),
    Bad(55, "GPTQ", "a.safetensors", gptq, "is quantised: fc.qweight packs"),
    Bad(56, "complex", "a.pt", saved({"w": torch.ones(2, dtype=torch.complex64)}), "w is complex"),
    Bad(56, "complex safetensors", "a.safetensors", content(save({"w": torch.ones(1) * 1j})), "w is complex"),
    Bad(56, "sparse", "a.pt", saved({"w": torch.eye(2).to_sparse()}), "w is a sparse (sparse_coo) float32 tensor"),
    Bad(56, "sparse rows", "a.pt", saved({"w": torch.eye(3).to_sparse_coo().double()}), "float64"),
    Bad(56, "nested", "a.pt", nested_tensor, "w is a nested float32 tensor"),
    Bad(53, "meta", "a.pt", saved({"w": torch.ones(2, device="meta")}), "has no values"),
    Bad(
        20,
        "packed torch dtype",
        "a.pt",
        saved({"w": torch.zeros(4).byte().view(torch.float4_e2m1fn_x2)}),
        "of type float4",
    ),
    Bad(30, "an archive of something else", "a.zip", archive_of(pickle.dumps(OrderedDict(), 2)), "no tensors by name"),
    Bad(28, "old format module", "a.pt", saved(nn.Linear(2, 2), _use_new_zipfile_serialization=False), "linear.Linear"),
]
