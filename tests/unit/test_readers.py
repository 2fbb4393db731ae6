"""Readers: the official formats read back; damaged, hostile, unknown or missing files are refused in one line."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from kdrun.datasets import cifar, cifar10, cifar100, digits, fashion_mnist, image_folder, imagenet, mnist
from kdrun.datasets.files import Known, fetch, locate
from kdrun.datasets.idx import read_idx, read_images
from kdrun.datasets.raw import Files, centre
from kdrun.errors import KdrunError, UsageError
from tests.conftest import mutated


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)


def one_line(error: pytest.ExceptionInfo[BaseException], *parts: object) -> None:
    """The message is one line and says all of this."""
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


def pixels(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# ------------------------------------------------------------------------------------------------------------- IDX


def idx(array: np.ndarray[Any, Any]) -> bytes:
    return struct.pack(f">HBB{array.ndim}i", 0, 8, array.ndim, *array.shape) + array.tobytes()


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_is_read_back(tmp_path: Path, ending: str) -> None:
    images, labels = pixels(5, 4, 3), np.array([3, 0, 9, 255, 1], np.uint8)
    read = read_images(put(tmp_path / f"i{ending}", idx(images)), put(tmp_path / f"l{ending}", idx(labels)))
    assert read.pixels.shape == (5, 1, 4, 3)
    assert read.pixels[:, 0].tolist() == images.tolist()
    assert read.targets.tolist() == [3, 0, 9, 255, 1]
    assert read.targets.dtype == torch.int64


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_an_idx_file_cut_short_anywhere_is_refused(tmp_path: Path, ending: str) -> None:
    path = put(tmp_path / f"cut{ending}", idx(pixels(3, 4, 3)))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UsageError) as caught:
            read_idx(path)
        one_line(caught, path)


@pytest.mark.parametrize(
    "content",
    [
        idx(pixels(2, 2)) + b"\0",
        b"\x00\x00\x0d" + idx(pixels(2, 2))[3:],
        struct.pack(">HBB2i", 0, 8, 2, -1, -4) + bytes(4),
        b"<html>not found</html>",
    ],
    ids=["a byte too many", "floats", "sizes below zero", "a web page"],
)
def test_a_file_that_is_no_idx_of_bytes_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UsageError, match="is not an IDX file"):
        read_idx(put(tmp_path / "strange", content))


def test_a_damaged_gzip_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "images.gz", idx(pixels(20, 4, 3)))
    for damaged in (b"not gzip at all", path.read_bytes()[:20] + b"\xff\xff" + path.read_bytes()[22:]):
        path.write_bytes(damaged)
        with pytest.raises(UsageError) as caught:
            read_idx(path)
        one_line(caught, path)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_mnist_is_found_plain_or_gzipped(tmp_path: Path, ending: str) -> None:
    for part, count in (("train", 6), ("t10k", 4)):
        put(tmp_path / f"MNIST/raw/{part}-images-idx3-ubyte{ending}", idx(pixels(count, 28, 28)))
        put(tmp_path / f"MNIST/raw/{part}-labels-idx1-ubyte{ending}", idx(np.arange(count, dtype=np.uint8)))
    raw = mnist.read(tmp_path, verify=False)
    assert raw.classes == tuple("0123456789")
    assert raw.train.pixels.shape == (6, 1, 28, 28)
    assert raw.test is not None
    assert raw.test.targets.tolist() == [0, 1, 2, 3]
    with pytest.raises(UsageError, match="is not the published file"):
        mnist.read(tmp_path, verify=True)


def test_other_digits_than_the_published_ones_are_refused_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = digits._rows()
    numbers[7, 3] += 1
    monkeypatch.setattr(digits, "_rows", lambda: numbers)
    with pytest.raises(UsageError, match=r"not the published ones .* dataset\.verify=false"):
        digits.read(tmp_path, verify=True)
    assert len(digits.read(tmp_path, verify=False).train.targets) == 1797


def test_a_missing_file_is_named_with_the_folder_and_the_setting(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        fashion_mnist.read(tmp_path, verify=True)
    one_line(caught, tmp_path, "FashionMNIST/raw/train-images-idx3-ubyte.gz", "data_dir=", "no network")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# ----------------------------------------------------------------------------------------------------------- CIFAR


class Python2(pickle._Pickler):  # type: ignore[misc, name-defined]
    """Pickles as the official files were written: by Python 2, with byte strings and an old numpy."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_string(self, text: str | bytes) -> None:
        raw = text.encode("latin1") if isinstance(text, str) else text
        self.write(b"T" + struct.pack("<i", len(raw)) + raw)  # BINSTRING
        self.memoize(text)

    def save_array(self, array: np.ndarray[Any, Any]) -> None:
        self.write(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n(K\x00tU\x01b\x87R")
        self.write(b"(K\x01")
        self.save(tuple(array.shape))
        self.write(b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb")
        self.write(b"\x89")
        self.save_string(array.tobytes())
        self.write(b"tb")

    dispatch[str] = dispatch[bytes] = save_string
    dispatch[np.ndarray] = save_array


def by_python_2(content: Any) -> bytes:
    buffer = io.BytesIO()
    Python2(buffer, 2).dump(content)
    return buffer.getvalue()


def by_python_3(content: Any) -> bytes:
    return pickle.dumps(content, protocol=2)


Dump = Callable[[Any], bytes]


def write_cifar10(folder: Path, dump: Dump, count: int = 3) -> dict[str, np.ndarray[Any, Any]]:
    base = folder / "cifar-10-batches-py"
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    written = {name: pixels(count, 3072, seed=number) for number, name in enumerate(names)}
    for number, name in enumerate(names):
        content = {"data": written[name], "labels": [(number + one) % 10 for one in range(count)], "batch_label": name}
        put(base / name, dump(content))
    put(base / "batches.meta", dump({"label_names": [f"class {number}" for number in range(10)], "num_vis": 3072}))
    return written


@pytest.mark.parametrize("dump", [by_python_2, by_python_3])
def test_cifar10_is_read_back_batch_by_batch_and_channel_by_channel(tmp_path: Path, dump: Dump) -> None:
    written = write_cifar10(tmp_path, dump)
    raw = cifar10.read(tmp_path, verify=False)
    assert raw.classes == tuple(f"class {number}" for number in range(10))
    assert raw.train.targets.tolist() == [0, 1, 2, 1, 2, 3, 2, 3, 4, 3, 4, 5, 4, 5, 6]
    assert raw.train.pixels.shape == (15, 3, 32, 32)
    assert raw.test is not None
    assert raw.test.targets.tolist() == [5, 6, 7]
    green = written["data_batch_2"][1, 1024:2048]  # row 4 of all is the second of the second three
    assert raw.train.pixels[4, 1].flatten().tolist() == green.tolist()
    assert raw.test.pixels[0, 0, 3, 5] == written["test_batch"][0, 3 * 32 + 5]


@pytest.mark.parametrize("dump", [by_python_2, by_python_3])
def test_cifar100_is_read_back_with_its_fine_labels(tmp_path: Path, dump: Dump) -> None:
    base = tmp_path / "cifar-100-python"
    names = [f"fine {number}" for number in range(100)]
    for name, labels in (("train", [99, 0, 42]), ("test", [7])):
        images = pixels(len(labels), 3072)
        put(base / name, dump({"data": images, "fine_labels": labels, "coarse_labels": [1] * len(labels)}))
    put(base / "meta", dump({"fine_label_names": names, "coarse_label_names": ["wrong"] * 20}))
    raw = cifar100.read(tmp_path, verify=False)
    assert raw.classes == tuple(names)
    assert raw.train.targets.tolist() == [99, 0, 42]
    assert raw.test is not None
    assert raw.test.targets.tolist() == [7]


def test_cifar_of_unknown_bytes_is_refused_unless_told_otherwise(tmp_path: Path) -> None:
    write_cifar10(tmp_path, by_python_3)
    with pytest.raises(UsageError) as caught:
        cifar10.read(tmp_path, verify=True)
    one_line(caught, "data_batch_1", "is not the published file", "dataset.verify=false")


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


def hostile(marker: Path) -> dict[str, bytes]:
    return {
        "system": pickle.dumps({"data": Bomb(marker)}, protocol=2),
        "eval": b"c__builtin__\neval\n(V__import__('os').mkdir(%r)\ntR." % str(marker),
        "by way of numpy": pickle.dumps(partial(os.mkdir, str(marker)), protocol=4),
        "loads again": b"cpickle\nloads\n(" + pickle.dumps(pickle.dumps(Bomb(marker)), 2)[2:-1] + b"tR.",
        "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0andarray.mro\x93.",
    }


@pytest.mark.parametrize("kind", list(hostile(Path("marker"))))
def test_a_hostile_pickle_is_refused_and_never_runs(tmp_path: Path, kind: str) -> None:
    marker = tmp_path / "marker"
    path = put(tmp_path / "data_batch_1", hostile(marker)[kind])
    with pytest.raises(UsageError) as caught:
        cifar.unpickle(path)
    one_line(caught, path, "is not a CIFAR file")
    assert not marker.exists()


def test_the_bomb_goes_off_in_a_reader_that_admits_everything(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    careless = mutated(cifar, "(module, name) not in ADMITTED", "False")
    with pytest.raises(UsageError):
        careless.unpickle(put(tmp_path / "list", pickle.dumps([Bomb(marker)], protocol=2)))
    assert marker.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", pickle.dumps([1, 2], 2), by_python_3({"data": [1]})[:-5]],
    ids=["empty", "text", "a list", "cut short"],
)
def test_a_damaged_cifar_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = put(tmp_path / "test_batch", content)
    with pytest.raises(UsageError) as caught:
        cifar.unpickle(path)
    one_line(caught, path)


@pytest.mark.parametrize(
    "content",
    [{"labels": [1]}, {"data": pixels(1, 100), "labels": [1]}, {"data": pixels(1, 3072)}],
    ids=["no pixels", "too few pixels", "no labels"],
)
def test_a_cifar_file_without_the_parts_is_named(tmp_path: Path, content: dict[str, Any]) -> None:
    write_cifar10(tmp_path, by_python_3)
    path = put(tmp_path / "cifar-10-batches-py" / "test_batch", by_python_3(content))
    with pytest.raises(UsageError) as caught:
        cifar10.read(tmp_path, verify=False)
    one_line(caught, path)


def test_cifar_comes_out_of_its_archive(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "made", by_python_3)
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "made" / "cifar-10-batches-py", "cifar-10-batches-py")
    assert len(cifar10.read(tmp_path, verify=False).train.targets) == 15
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("damage", ["cut short", "not an archive", "a file is not in it"])
def test_a_bad_cifar_archive_is_one_line_that_names_it(tmp_path: Path, damage: str) -> None:
    write_cifar10(tmp_path / "made", by_python_3)
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        name = "cifar-10-batches-py/data_batch_1"
        tar.add(tmp_path / "made" / name, name)
    if damage == "cut short":
        path.write_bytes(path.read_bytes()[:2000])
    if damage == "not an archive":
        path.write_bytes(b"<html>not found</html>")
    with pytest.raises(UsageError) as caught:
        cifar10.read(tmp_path, verify=False)
    one_line(caught, path)


# ------------------------------------------------------------------------------------------- checksums and fetching

CONTENT = b"the published bytes" * 100
MD5, SHA256 = hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize("digests", [(MD5,), (SHA256,), ("0" * 32, SHA256), ("0" * 64, MD5)])
def test_md5_and_sha256_are_both_known(tmp_path: Path, digests: tuple[str, ...]) -> None:
    path = tmp_path / "a" / "file"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    assert locate(tmp_path, [Known("a/file", digests)], verify=True) == path


@pytest.mark.parametrize("digests", [("0" * 32,), ("0" * 64,), ("0" * 32, "0" * 64), (SHA256[:32],)])
def test_unknown_bytes_are_refused_with_verify_and_accepted_without(tmp_path: Path, digests: tuple[str, ...]) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    with pytest.raises(UsageError) as caught:
        locate(tmp_path, [Known("file", digests)], verify=True)
    one_line(caught, path, "dataset.verify=false")
    assert locate(tmp_path, [Known("file", digests)], verify=False) == path


def test_a_missing_file_without_an_address_names_every_alternative(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        locate(tmp_path, [Known("a/plain", (MD5,)), Known("a/zipped.gz", (MD5,))], verify=True)
    one_line(caught, "a/plain", "a/zipped.gz", tmp_path, "data_dir=")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, dict[str, Any]]]:
    """A server on this machine, and what it answers: status, body, and the length it claims."""
    monkeypatch.undo()  # the real urlopen again
    monkeypatch.setenv("no_proxy", "*")
    answer: dict[str, Any] = {"status": 200, "body": CONTENT, "length": len(CONTENT)}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer["status"])
            self.send_header("Content-Length", str(answer["length"]))
            self.end_headers()
            self.wfile.write(answer["body"])

        def log_message(self, *_: Any) -> None:
            pass

    server = TCPServer(("127.0.0.1", 0), Handler)  # HTTPServer would look its own name up
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/file", answer
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_download_appears_under_its_name_and_alone(tmp_path: Path, served: tuple[str, dict[str, Any]]) -> None:
    path = locate(tmp_path / "new", [Known("a/plain", (MD5,)), Known("a/file", (SHA256,), served[0])], verify=True)
    assert path == tmp_path / "new" / "a" / "file"
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(
    "change",
    [{"body": CONTENT[:-1] + b"!"}, {"body": CONTENT[:500]}, {"body": b"", "length": 0}],
    ids=["other bytes", "cut short", "empty"],
)
def test_a_bad_download_leaves_nothing_behind(
    tmp_path: Path, served: tuple[str, dict[str, Any]], change: dict[str, Any], verify: bool
) -> None:
    url, answer = served
    answer.update(change)
    with pytest.raises(UsageError) as caught:
        locate(tmp_path, [Known("a/file", (SHA256,), url)], verify)
    one_line(caught, "a/file")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_address_that_is_gone_is_one_line_and_its_connection_is_closed(
    tmp_path: Path, served: tuple[str, dict[str, Any]]
) -> None:
    url, answer = served
    answer["status"] = 404
    with pytest.raises(UsageError) as caught:
        locate(tmp_path, [Known("a/file", (SHA256,), url)], verify=True)
    one_line(caught, "a/file", tmp_path, "data_dir=", "Not Found")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    refusal = caught.value.__cause__
    assert isinstance(refusal, urllib.error.HTTPError)
    closed = refusal.closed
    refusal.close()  # so that no other test hears of it
    assert closed


def test_a_bad_download_is_not_blamed_on_a_temporary_file(tmp_path: Path, served: tuple[str, dict[str, Any]]) -> None:
    """It is gone when the message is read, and `dataset.verify=false` would not help: downloads are always checked."""
    url, answer = served
    answer["body"] = b"?" * len(CONTENT)
    with pytest.raises(UsageError) as caught:
        locate(tmp_path, [Known("a/file", (SHA256,), url)], verify=True)
    one_line(caught, tmp_path / "a" / "file", hashlib.sha256(answer["body"]).hexdigest())
    assert ".part" not in str(caught.value)
    assert "verify=false" not in str(caught.value)


def test_a_data_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.write_bytes(b"")
    with pytest.raises(KdrunError) as caught:
        fetch(place, Known("a/file", (MD5,), "http://127.0.0.1:9/file"))
    one_line(caught, place)


# ---------------------------------------------------------------------------------------------- folders of pictures


def draw_folder(root: Path, counts: dict[str, int], size: tuple[int, int] = (12, 9)) -> None:
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for one in range(count):
            Image.fromarray(pixels(size[1], size[0], 3, seed=100 * number + one)).save(root / name / f"{one}.png")


def read_folder(root: Path, **options: Any) -> Any:
    given: dict[str, Any] = {"resize": 8, "size": 8, "cache": "memory", "cache_gb": 1.0, "workers": 0}
    return image_folder.read(root.parent, False, **({"path": root.name} | given | options))


def test_a_folder_of_class_folders_is_all_training_data(tmp_path: Path) -> None:
    draw_folder(tmp_path / "pets", {"dog": 3, "cat": 2})
    raw = read_folder(tmp_path / "pets")
    assert raw.classes == ("cat", "dog")
    assert raw.train.targets.tolist() == [0, 0, 1, 1, 1]
    assert raw.train.pixels.shape == (5, 3, 8, 8)
    assert (raw.test, raw.validation) == (None, None)
    assert torch.equal(raw.train.pixels, read_folder(tmp_path / "pets", path=str(tmp_path / "pets")).train.pixels)


def test_train_val_and_test_folders_are_the_official_splits(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("val", 1), ("test", 2)):
        draw_folder(tmp_path / "pets" / part, {"dog": count, "cat": 1})
    raw = read_folder(tmp_path / "pets")
    assert [part.targets.tolist() for part in (raw.train, raw.validation, raw.test)] == [
        [0, 1, 1, 1, 1],
        [0, 1],
        [0, 1, 1],
    ]


def test_wherever_images_are_kept_they_are_the_same(tmp_path: Path) -> None:
    draw_folder(tmp_path / "pets", {"dog": 3, "cat": 2})
    inside, mapped, outside = (read_folder(tmp_path / "pets", cache=how) for how in ("memory", "disk", "none"))
    assert isinstance(outside.train.pixels, Files)
    rows = torch.tensor([4, 0, 2])
    for other in (mapped, outside):
        assert torch.equal(other.train.pixels[rows], inside.train.pixels[rows])
    too_large = read_folder(tmp_path / "pets", cache="disk", cache_gb=0.0)
    assert isinstance(too_large.train.pixels, Files)


def test_images_are_decoded_once_and_again_when_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    draw_folder(tmp_path / "pets", {"dog": 3, "cat": 2})
    asked: list[int] = []
    decode = Files.decode
    monkeypatch.setattr(Files, "decode", lambda self, row: (asked.append(row), decode(self, row))[1])
    first, again = (read_folder(tmp_path / "pets", cache="disk").train.pixels.clone() for _ in range(2))
    assert len(asked) == 5
    assert torch.equal(first, again)
    read_folder(tmp_path / "pets", cache="disk").train.pixels[0] = 0
    assert torch.equal(read_folder(tmp_path / "pets", cache="disk").train.pixels, first), "nobody writes into it"
    kept = list((tmp_path / "cache").rglob("*.*"))
    assert len(kept) == 1, "and no temporary file is left"
    kept[0].write_bytes(kept[0].read_bytes()[:-1])
    assert torch.equal(read_folder(tmp_path / "pets", cache="disk").train.pixels, first), "a cut one is made again"
    picture = next((tmp_path / "pets" / "dog").iterdir())
    Image.new("RGB", (9, 9), (1, 2, 3)).save(picture)
    os.utime(picture, ns=(1, 1))
    assert not torch.equal(read_folder(tmp_path / "pets", cache="disk").train.pixels, first)
    assert len(asked) == 15


def test_a_full_disk_is_told_before_anything_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    draw_folder(tmp_path / "pets", {"dog": 3, "cat": 2})
    with pytest.raises(KdrunError, match=r"960 bytes.*No space left.*dataset.cache=memory"):
        read_folder(tmp_path / "pets", cache="disk")
    assert not list((tmp_path / "cache").rglob("*.*"))


def test_a_picture_is_scaled_by_its_shorter_side_and_cut_in_the_middle() -> None:
    stripes = np.zeros((4, 8, 3), np.uint8)
    stripes[:, 2:6] = (10, 20, 30)
    assert centre(Image.fromarray(stripes), 4, 4)[:, 1, 1].tolist() == [10, 20, 30]
    assert centre(Image.fromarray(stripes), 4, 4).float().std(dim=(1, 2)).max() == 0
    assert centre(Image.fromarray(stripes), 4, 2).shape == (3, 2, 2)
    assert centre(Image.fromarray(stripes[:, :1]), 2, 8).shape == (3, 8, 8)  # resize below size: enlarged to fit
    assert centre(Image.fromarray(stripes[:, :, 0]), 4, 4).shape == (3, 4, 4)  # grey becomes colour


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")  # Pillow's, of a damaged file
@pytest.mark.parametrize("cache_gb", [1.0, 0.0])
@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "webp", "tif", "ppm"])
def test_a_picture_cut_short_or_scrambled_is_one_line_that_names_it(
    tmp_path: Path, ending: str, cache_gb: float
) -> None:
    draw_folder(tmp_path / "pets", {"dog": 1, "cat": 1})
    path = tmp_path / "pets" / "cat" / f"broken.{ending}"
    Image.fromarray(pixels(9, 12, 3)).save(path)
    whole = path.read_bytes()
    torn = [whole[: len(whole) * part // 8] for part in range(1, 7)]
    torn += [whole[:at] + b"\xff\xff\xff\x7f" + whole[at + 4 :] for at in range(0, 40, 2)]
    messages = []
    for content in torn:
        path.write_bytes(content)
        try:
            raw = read_folder(tmp_path / "pets", cache_gb=cache_gb)
            raw.train.pixels[torch.arange(3)]
        except KdrunError as error:
            messages.append(str(error))
    assert len(messages) >= 6
    assert all(str(path) in message and "\n" not in message for message in messages)


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        ({"dog": 2}, "has 1 class folders; at least 2 are needed"),
        ({"dog": 2, "cat": 0}, "has no images"),
        ({"train/dog": 1, "train/cat": 1, "val/dog": 1, "val/cow": 1}, "has a class 'cow'"),
        ({"train/dog": 1, "train/cat": 1, "val/dog": 1}, "val/cat has no images"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(tmp_path: Path, folders: dict[str, int], told: str) -> None:
    draw_folder(tmp_path / "pets", folders)
    with pytest.raises(UsageError) as caught:
        read_folder(tmp_path / "pets")
    one_line(caught, told, tmp_path / "pets")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_folder(tmp_path / "nowhere")
    one_line(caught, tmp_path / "nowhere", "dataset.path=")
    with pytest.raises(UsageError, match="which folder"):
        read_folder(tmp_path, path=None)


# -------------------------------------------------------------------------------------------------------- ImageNet


def read_imagenet(folder: Path) -> Any:
    return imagenet.read(folder, False, "imagenet", resize=1, size=1, cache="none", cache_gb=0.0, workers=0)


@pytest.fixture
def thousand(tmp_path: Path) -> Path:
    for part in ("train", "val"):
        for number in range(1000):
            folder = tmp_path / "imagenet" / part / f"n{number:08d}"
            folder.mkdir(parents=True)
            (folder / f"{part}.JPEG").touch()
    return tmp_path


def test_imagenets_validation_folder_is_the_test_split(thousand: Path) -> None:
    raw = read_imagenet(thousand)
    assert len(raw.classes) == 1000
    assert raw.validation is None
    assert raw.test.targets.tolist() == list(range(1000))
    assert {path.name for path in raw.test.pixels.paths} == {"val.JPEG"}


def test_imagenets_unlabelled_test_folder_is_ignored(thousand: Path) -> None:
    """The official archive has one, without class folders."""
    (thousand / "imagenet" / "test").mkdir()
    (thousand / "imagenet" / "test" / "ILSVRC2012_test_00000001.JPEG").touch()
    assert {path.name for path in read_imagenet(thousand).test.pixels.paths} == {"val.JPEG"}


def test_a_folder_that_is_not_imagenet_is_refused(tmp_path: Path) -> None:
    draw_folder(tmp_path / "imagenet" / "train", {"dog": 1, "cat": 1})
    with pytest.raises(UsageError, match="2 classes and no val folder"):
        read_imagenet(tmp_path)
