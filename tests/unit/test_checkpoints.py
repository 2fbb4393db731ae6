"""Checkpoints and files: whole or not at all, what was written or refused, and never code."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch

from kdrun.errors import KdrunError, UsageError
from kdrun.records.checkpoints import MARK, TAIL, is_ours, load, load_foreign, save
from kdrun.records.files import read_json, write, write_json

CONTENT = {
    "weights": torch.arange(1000, dtype=torch.float32).view(10, 100).sin(),
    "half": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "steps": torch.tensor([3], dtype=torch.int64),
    "epoch": 7,
    "names": ["cat", "dog"],
    "spec": {"name": "cnn", "width": 0.5, "pretrained": None, "flip": True},
}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    def plain(value: Any) -> Any:
        return (str(value.dtype), value.tolist()) if isinstance(value, torch.Tensor) else value

    return {key: plain(value) for key, value in one.items()} == {key: plain(value) for key, value in other.items()}


def flipped(content: bytes, bit: int) -> bytes:
    return content[: bit // 8] + bytes([content[bit // 8] ^ (1 << bit % 8)]) + content[bit // 8 + 1 :]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "model.pt"
    save(file, CONTENT)
    return file


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


# ------------------------------------------------------------------------------------------------------ checkpoints


def test_what_was_saved_is_loaded(path: Path) -> None:
    assert same(load(path), CONTENT)
    assert is_ours(path)


def test_torch_and_zip_tools_read_the_file_as_ever(path: Path) -> None:
    import zipfile

    assert same(torch.load(path, weights_only=True), CONTENT)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(MARK)


def test_the_mark_is_the_hash_of_everything_before_it(path: Path) -> None:
    content = path.read_bytes()
    assert content[-64:].decode() == hashlib.sha256(content[:-TAIL]).hexdigest()


def test_every_flipped_bit_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    chosen = random.Random(0).sample(range(8 * (len(whole) - TAIL)), 270)
    chosen += random.Random(1).sample(range(8 * (len(whole) - TAIL), 8 * len(whole)), 30)  # some in the mark itself
    for bit in chosen:
        path.write_bytes(flipped(whole, bit))
        with pytest.raises(UsageError, match="damaged or not written by kdrun"):
            load(path)


def test_every_truncation_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for length in [0, 1, TAIL - 1, TAIL, len(whole) - 1, *random.Random(0).sample(range(len(whole)), 100)]:
        path.write_bytes(whole[:length])
        with pytest.raises(UsageError, match="damaged or not written by kdrun"):
            load(path)


def test_bytes_added_before_or_after_are_refused(path: Path) -> None:
    whole = path.read_bytes()
    for content in (whole + b"\0", b"\0" + whole):
        path.write_bytes(content)
        with pytest.raises(UsageError):
            load(path)


def test_plain_torch_files_do_not_notice_a_flipped_bit(tmp_path: Path) -> None:
    """The negative control: without the checksum, other weights are loaded without a word."""
    file = tmp_path / "plain.pt"
    torch.save(CONTENT, file)
    whole = file.read_bytes()
    place = whole.index(CONTENT["weights"].numpy().tobytes())  # type: ignore[attr-defined]
    file.write_bytes(flipped(whole, 8 * (place + 402)))
    assert not same(torch.load(file, weights_only=True), CONTENT)
    with pytest.raises(UsageError):
        load(file)


def test_a_checkpoint_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    for read in (load, load_foreign):
        with pytest.raises(UsageError) as caught:
            read(tmp_path / "none.pt")
        assert str(tmp_path / "none.pt") in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "last.pt")
    with pytest.raises(UsageError, match=r"last\.pt is not a regular file"):
        load(tmp_path / "last.pt")


def test_a_checkpoint_is_not_held_in_memory_beside_its_tensors(tmp_path: Path) -> None:
    file = tmp_path / "large.pt"
    save(file, {"weights": torch.zeros(2**22)})
    tracemalloc.start()  # which sees Python's memory, not that of tensors
    load(file)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**23


def test_saving_leaves_the_folder_with_that_file_alone(path: Path) -> None:
    assert list(path.parent.iterdir()) == [path]


# ---------------------------------------------------------------------------------------------- files of other people


def test_foreign_state_dicts_are_loaded(tmp_path: Path) -> None:
    for number, old in enumerate((False, True)):
        file = tmp_path / f"{number}.pth"
        torch.save(CONTENT, file, _use_new_zipfile_serialization=not old)
        assert not is_ours(file)
        assert same(load_foreign(file), CONTENT)


def test_our_own_are_verified_also_when_they_come_as_foreign(path: Path) -> None:
    assert same(load_foreign(path), CONTENT)
    path.write_bytes(flipped(path.read_bytes(), 8 * 600))
    with pytest.raises(UsageError, match="damaged"):
        load_foreign(path)


def test_damage_never_gives_other_weights_also_when_it_comes_as_foreign(path: Path) -> None:
    """A mark that is damaged itself makes a file foreign; then its content is whole, or torch refuses it."""
    whole = path.read_bytes()
    mark = 8 * (len(whole) - TAIL)
    damaged = [whole[: len(whole) - cut] for cut in (1, TAIL - 1, TAIL, TAIL + 1, TAIL + 30, 3000)]
    damaged += [flipped(whole, bit) for bit in range(mark, mark + 8 * len(MARK), 5)]
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            assert same(load_foreign(path), CONTENT)
        except UsageError:
            refused += 1
    assert refused >= 2


def bombs(marker: Path) -> dict[str, bytes]:
    buffer = io.BytesIO()
    torch.save({"weights": Bomb(marker)}, buffer)
    archive = buffer.getvalue()[:-2] + TAIL.to_bytes(2, "little")
    return {
        "zip": buffer.getvalue(),
        "plain pickle": pickle.dumps({"weights": Bomb(marker)}, protocol=2),
        "with a right checksum": archive + MARK + hashlib.sha256(archive).hexdigest().encode(),
    }


@pytest.mark.parametrize("kind", list(bombs(Path("marker"))))
@pytest.mark.parametrize("read", [load, load_foreign])
def test_code_in_a_checkpoint_is_refused_and_never_runs(tmp_path: Path, kind: str, read: Any) -> None:
    file, marker = tmp_path / "bomb.pt", tmp_path / "marker"
    file.write_bytes(bombs(marker)[kind])
    with pytest.raises(UsageError) as caught:
        read(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_the_bombs_are_real(tmp_path: Path) -> None:
    for number, content in enumerate(bombs(tmp_path / "marker").values()):
        file = tmp_path / f"{number}.pt"
        file.write_bytes(content)
        torch.load(file, weights_only=False) if number != 1 else pickle.loads(content)
        assert (tmp_path / "marker").is_dir(), "it did not go off"
        (tmp_path / "marker").rmdir()


@pytest.mark.parametrize("content", [b"", b"hello\n", b"epoch: 3\naccuracy: 0.9\n" * 20, b"\x80\x02."])
def test_a_file_that_is_no_checkpoint_is_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        load_foreign(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_foreign_file_of_something_else_than_a_dictionary_is_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    with pytest.raises(UsageError, match="holds a list, not a state dict"):
        load_foreign(tmp_path / "list.pt")


# ------------------------------------------------------------------------------------------------- whole or not at all


def full(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_old_file_and_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KdrunError) as caught:
        save(path, {"epoch": 8})
    assert "No space left" in str(caught.value)
    assert str(path) in str(caught.value)
    assert same(load(path), CONTENT)
    assert list(path.parent.iterdir()) == [path]


def test_an_interruption_leaves_the_old_file_and_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(path, {"epoch": 8})
    assert same(load(path), CONTENT)
    assert list(path.parent.iterdir()) == [path]


def test_the_content_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, steps = tmp_path / "file", []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        steps.append(f"sync {file.exists()}")
        real_fsync(handle)

    def replace(self: Path, target: Path) -> Path:
        steps.append(f"rename {self.read_bytes().decode()}")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    write(file, b"whole")
    assert steps == ["sync False", "rename whole", "sync True"]


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(KdrunError, match="cannot write"):
        write(tmp_path / "nowhere" / "file", b"")


def test_json_is_read_back_and_never_holds_nan(tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    write_json(file, {"test/accuracy": 0.5, "gain": None})
    assert read_json(file) == {"test/accuracy": 0.5, "gain": None}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(file, {"test/accuracy": float("nan")})
    assert json.loads(file.read_text()) == {"test/accuracy": 0.5, "gain": None}


@pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe\xff"])
def test_json_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(KdrunError, match=r"run\.json cannot be read"):
        read_json(tmp_path / "run.json")
