"""The store of teacher outputs: its key, its files, and what it stands for."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdrun import assembly
from kdrun.config import stage_config
from kdrun.datasets.raw import Files, Labelled, Raw
from kdrun.datasets.split import Data, split
from kdrun.errors import UsageError
from kdrun.models.building import Model, build
from kdrun.records import files, lock, seal
from kdrun.records import store as store_module
from kdrun.records.models import load_model
from kdrun.records.seal import sealed
from kdrun.records.store import View, damaged, is_whole, kept, prune
from kdrun.stages import common
from kdrun.stages import source as source_module
from kdrun.stages.source import Source
from kdrun.stages.teacher import Taught
from kdrun.teachers import stored as stored_module
from kdrun.teachers.live import LiveTeacher
from kdrun.topk import TopK
from tests.conftest import Answer, mutated

Command = Callable[..., Answer]
SAMPLES = 38  # of 60: a fifth is the test split, a fifth of the rest is for validation
WORDS = ["epochs=4", "batch_size=8", "student=mlp", "student.widths=[6]", "device.threads=1"]


def data(seed: int = 0, samples: int = 60) -> Data:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (samples, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return split(Raw(("a", "b", "c"), Labelled(pixels, torch.arange(samples) % 3)), 0.2, 0, None)


@cache
def composed(*words: str) -> dict[str, Any]:
    return stage_config("distill", [*WORDS, *words])


def taught(read: Data, config: dict[str, Any], seed: int = 0, precision: str = "fp32", **spec: Any) -> Taught:
    node = {**config["model"], "widths": [5]}
    model = build({**assembly.model_spec(node, read, config["dataset"]), **spec}, seed)
    return Taught(model, "f", precision, {}, config["teacher"]["top_k"])


def source(folder: Path, *words: str, read: Data | None = None, **teacher: Any) -> Source:
    config = {**composed(*words), "output_dir": str(folder)}
    read = data() if read is None else read
    made = taught(read, config, **teacher)
    return Source(config, read, made)


MOVING = ("augment=[flip]", "dataset.views=2")


def key(folder: Path, *words: str, **more: Any) -> str:
    return source(folder, *MOVING, *words, **more).store.path.name


CHANGES: dict[str, Callable[[Path, pytest.MonkeyPatch], str]] = {
    "weights": lambda folder, _: key(folder, seed=1),
    "data": lambda folder, _: key(folder, read=data(1)),
    "samples": lambda folder, _: key(folder, read=data(samples=57)),
    "another augmentation": lambda folder, _: key(folder, "augment=[flip,crop]"),
    "an augmentation's option": lambda folder, _: key(folder, "augment.flip.probability=0.4"),
    "view seed": lambda folder, _: key(folder, "dataset.view_seed=1"),
    "normalisation": lambda folder, _: key(folder, mean=[0.1]),
    "top k": lambda folder, _: key(folder, "teacher.top_k=2"),
    "precision": lambda folder, _: key(folder, precision="bf16"),
    "batch size": lambda folder, patch: (patch.setattr(source_module, "BATCH", 128), key(folder))[1],
    "threads": lambda folder, patch: (patch.setattr(torch, "get_num_threads", lambda: 7), key(folder))[1],
    "torch": lambda folder, patch: (patch.setattr(common, "version", lambda _: "1.0"), key(folder))[1],
    "kdrun's numbers": lambda folder, patch: (patch.setattr(common, "RESULT_VERSION", 0), key(folder))[1],
    "code of the views": lambda folder, patch: (
        patch.setattr(source_module.inspect, "getsource", lambda _: ""),
        key(folder),
    )[1],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_each_thing_that_changes_an_answer_changes_the_key(
    change: Callable[[Path, pytest.MonkeyPatch], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key(tmp_path)
    assert change(tmp_path, monkeypatch) != before


def test_the_test_split_is_another_store_though_it_has_the_same_numbers(tmp_path: Path) -> None:
    """Of data with files of their own for both splits, both are numbered from 0 on."""
    made = source(tmp_path)
    one, other = made.store_of(data()), made.store_of_test(replace(data(), test=data().train))
    assert one.shape == other.shape
    assert one.path != other.path
    assert {name for name in one.key | other.key if one.key.get(name) != other.key.get(name)} == {"split"}


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_the_library_that_a_teacher_is_from_is_part_of_the_key(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "version", lambda name: f"{name}'s")
    made = source(tmp_path)
    own = made.teacher.model.spec
    assert made.store.key["libraries"] == {"torch": "torch's"}
    for spec in ({**own, "kind": library}, {**own, "options": {"network": {**own, "kind": library}}}):
        made.teacher.model.spec = spec  # the latter is that of a student that ships another's classifier
        assert made.store_of(data()).key["libraries"] == {"torch": "torch's", library: f"{library}'s"}


@pytest.mark.parametrize(
    "words", [["seed=3"], ["loss.alpha=0.3"], ["epochs=9"], ["optimizer.lr=1"], ["batch_size=4"], ["student=cnn_tiny"]]
)
def test_nothing_of_the_student_changes_the_key(words: list[str], tmp_path: Path) -> None:
    student = [] if words != ["student=cnn_tiny"] else ["student.widths=[2]"]
    config = {**stage_config("distill", [*WORDS[:2], "device.threads=1", *MOVING, *words, *student])}
    read = data()
    plain = {**stage_config("distill", [*WORDS, *MOVING])}
    made = taught(read, plain)
    one, other = (Source({**c, "output_dir": str(tmp_path)}, read, made).store.path for c in (plain, config))
    assert one == other


def test_without_augmentation_there_is_one_view_and_no_seed_of_it(tmp_path: Path) -> None:
    one, other = source(tmp_path), source(tmp_path, "dataset.view_seed=5", "epochs=40")
    assert one.views == other.views == [0]
    assert one.store.path == other.store.path


class Counting(LiveTeacher):
    """Counts the samples it is asked about."""

    asked = 0

    def _outputs(self, batch: Any) -> Any:
        Counting.asked += len(batch)
        return super()._outputs(batch)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    Counting.asked = 0
    monkeypatch.setattr(Taught, "live", lambda self, device: Counting(self.model.tapped(), "f", device, self.precision))


@pytest.mark.usefixtures("counted")
def test_size_is_told_before_and_time_once_a_batch_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In time: no sample is asked about only to find out how long it takes."""
    monkeypatch.setattr(source_module, "BATCH", 8)
    caplog.set_level("INFO", "kdrun")
    source(tmp_path, *MOVING).fill()
    told = [record.getMessage().split(":", 1)[1] for record in caplog.records]
    assert told[0].startswith(f" storing its outputs for 2 views of {SAMPLES} samples: ")
    assert told[1].startswith(" that takes about ")
    assert Counting.asked == 2 * SAMPLES


@pytest.mark.usefixtures("counted")
def test_a_view_is_computed_once_and_more_epochs_add_views(tmp_path: Path) -> None:
    source(tmp_path, "augment=[flip]", "epochs=2").fill()
    assert Counting.asked == 2 * SAMPLES
    source(tmp_path, "augment=[flip]", "epochs=2", "loss.alpha=0.1").fill()
    assert Counting.asked == 2 * SAMPLES
    source(tmp_path, "augment=[flip]", "epochs=5").fill()
    assert Counting.asked == 5 * SAMPLES


@pytest.mark.usefixtures("counted")
def test_a_flipped_byte_or_a_cut_file_is_noticed_and_made_again(tmp_path: Path) -> None:
    made = source(tmp_path, "augment=[flip]", "dataset.views=3")
    made.fill()
    good = made.store.file(1).read_bytes()
    for bad in (good[:7] + bytes([good[7] ^ 1]) + good[8:], good[:-1], good[:10], b"", good + b"x"):
        made.store.file(1).write_bytes(bad)
        assert not is_whole(made.store.file(1))
        assert [file.name for one in kept(tmp_path / "store") for file in damaged(one)] == ["view-00001.bin"]
        made.fill()
        assert made.store.file(1).read_bytes() == good
    assert Counting.asked == (3 + 5) * SAMPLES


def test_a_view_of_another_size_is_damaged_and_not_read(tmp_path: Path) -> None:
    made = source(tmp_path)
    made.fill()
    file = made.store.file(0)
    good = file.read_bytes()
    file.write_bytes(sealed(b"short, and signed"))
    assert is_whole(file)
    assert made.store.missing([0]) == [0]
    file.write_bytes(good)
    with file.open("r+b") as opened:
        opened.truncate(2**40)  # an hour to hash
    assert [one.name for store in kept(tmp_path / "store") for one in damaged(store)] == [file.name]
    made.fill()
    assert file.read_bytes() == good


def test_one_damaged_store_does_not_block_the_others(tmp_path: Path) -> None:
    made = source(tmp_path)
    made.fill()
    for name, text in {"a": '{"format": 1}', "b": '{"format": 1, "shape": [2, 3], "key": []}', "c": "{"}.items():
        (tmp_path / "store" / name).mkdir()
        (tmp_path / "store" / name / "store.json").write_text(text)
    left_alone: list[str] = []
    assert [one.path for one in kept(tmp_path / "store", left_alone.append)] == [made.store.path]
    assert [f"/{name}/" in line for name, line in zip("abc", left_alone, strict=True)] == [True] * 3
    assert all(line.startswith("left alone: ") and "\n" not in line for line in left_alone)


def test_a_store_without_its_description_is_described_again(tmp_path: Path) -> None:
    """As a removal leaves it that was cut off."""
    made = source(tmp_path)
    made.fill()
    (made.store.path / "store.json").unlink()
    made.fill()
    assert [one.path for one in kept(tmp_path / "store")] == [made.store.path]


def test_a_reader_that_trusts_its_files_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = mutated(seal, "file.read() == tail(", "file.read() and tail(")
    made = source(tmp_path)
    made.fill()
    file = made.store.file(0)
    file.write_bytes(b"0" + file.read_bytes()[1:])
    assert not is_whole(file)
    monkeypatch.setattr(store_module, "is_sealed", wrong.is_sealed)
    assert is_whole(file)


# ------------------------------------------------------------------------------------------------ stored and live


def difference(made: Source) -> float:
    """The largest difference of a logit, over all epochs, between the stored and the live teacher."""
    stored = made.answers("stored")
    batches = [batch for epoch in range(4) for batch in made.loader.epoch(epoch)]
    return max((stored(batch).logits - made.live(batch).logits).abs().max().item() for batch in batches)


class PerSample(nn.Module):
    """Asks the network about one sample at a time: its answers do not depend on the batch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.network(sample[None]) for sample in x])


def independent(made: Source) -> Source:
    net = made.teacher.model.net
    net.net = PerSample(net.net)
    made.live = made.teacher.live("cpu")
    return made


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "words",
    [(), MOVING, ("augment=[crop,mixup]",), (*MOVING, "teacher.top_k=2")],
    ids=["still", "cycle", "mixed", "top k"],
)
def test_stored_equals_live_to_the_bit_where_the_batch_does_not_matter(
    tmp_path: Path, words: tuple[str, ...], precision: str
) -> None:
    assert difference(independent(source(tmp_path, *words, precision=precision))) == 0.0


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-6), ("bf16", 2e-2)])
def test_and_nearly_where_it_does(tmp_path: Path, precision: str, tolerance: float) -> None:
    assert difference(source(tmp_path, *MOVING, precision=precision)) <= tolerance


def test_students_of_a_stored_and_a_live_teacher_are_the_same_to_the_bit(
    kdrun: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the command line, with a teacher whose answers do not depend on the batch."""
    tapped = Model.tapped
    monkeypatch.setattr(Model, "tapped", lambda self: (_make_independent(self), tapped(self))[1])
    words = ["distill", "teacher=mlp", "teacher.widths=[8]", "student=cnn_tiny", "teacher.train.epochs=1"]
    words += ["epochs=3", "augment=[crop]", "dataset.limit=100", "dataset.views=2", "baseline=false", "device=cpu"]
    runs = [kdrun(*words, f"teacher.outputs={how}").run for how in ("live", "stored")]
    recorded = [json.loads((run / "run.json").read_text())["teacher_outputs"] for run in runs]
    assert recorded == ["live", "stored"]
    histories = [(run / "metrics.jsonl").read_text() for run in runs]
    assert histories[0] == histories[1]
    students = [load_model(run).net.state_dict() for run in runs]
    assert all(torch.equal(students[0][name], students[1][name]) for name in students[0] | students[1])
    live, stored = (json.loads((run / "summary.json").read_text()) for run in runs)
    assert all(live[name] == stored[name] for name in live | stored if name.startswith("test/"))


def _make_independent(model: Model) -> None:
    if model.spec["kind"] == "mlp" and not isinstance(model.net.net, PerSample):
        network = model.net.net
        model.net.net = PerSample(network)
        model.net.net.state_dict = network.state_dict  # type: ignore[method-assign]
        model.net.net.load_state_dict = network.load_state_dict  # type: ignore[method-assign]


# ------------------------------------------------------------------------------------------------------- choosing


def test_auto_stores_where_that_asks_less_often_and_fits(tmp_path: Path) -> None:
    assert source(tmp_path).choose() == "stored", "four epochs, one view"
    assert source(tmp_path, "epochs=1").choose() == "live"
    assert source(tmp_path, "augment=[flip]").choose() == "live", "a new view each epoch"
    assert source(tmp_path, "augment=[flip]").choose(shared=True) == "stored", "for other jobs too"
    assert source(tmp_path, "augment=[flip]", "store.max_gb=0").choose(shared=True) == "live"
    assert source(tmp_path, "augment=[flip]", "store.max_gb=0", "teacher.outputs=stored").choose() == "stored"
    assert source(tmp_path, "teacher.outputs=live").choose(shared=True) == "live"
    source(tmp_path, "augment=[flip]").fill()
    assert source(tmp_path, "augment=[flip]").choose() == "stored", "it is there already"


def test_views_that_cannot_be_stored_are_refused_with_a_sentence(tmp_path: Path) -> None:
    read = data()
    files = Files([Path("x.png")] * 60, 8, 8)
    streamed = replace(read, train=replace(read.train, pixels=files))
    mixed = ("augment=[mixup]", "dataset=digits")
    assert source(tmp_path, *mixed, read=streamed).choose(shared=True) == "live"
    with pytest.raises(UsageError, match="streamed images are mixed within their batch"):
        source(tmp_path, *mixed, "teacher.outputs=stored", read=streamed).choose()


def test_a_sweep_asks_its_teacher_once(kdrun: Command) -> None:
    asked = _asked(kdrun)
    assert asked == [0] * 7 + [2 * 64 + 359], "two views of 64 samples, and the test split: eight jobs share them"


@pytest.mark.data
def test_a_sweep_on_mnist_asks_its_teacher_once(kdrun: Command, data_dir: Path) -> None:
    asked = _asked(kdrun, "dataset=mnist", f"data_dir={data_dir}", "dataset.limit=2000")
    assert asked == [0] * 7 + [2 * 2000 + 10_000]


def _asked(kdrun: Command, *data: str) -> list[int]:
    """About how many samples each of eight jobs (alpha x temperature) asks its teacher, ascending."""
    words = ["-m", "teacher=cnn_tiny", "student=cnn_tiny", "teacher.train.epochs=1", "epochs=2", "augment=[flip]"]
    grid = ["loss.alpha=0.5,0.9", "loss.temperature=1,2,4,8"]
    answer = kdrun("distill", *words, "dataset.limit=64", *data, "baseline=false", *grid)
    assert (answer.code, answer.err) == (0, "")
    runs = [json.loads(file.read_text()) for file in Path("outputs/distill").glob("*/run.json")]
    return sorted(run["teacher_samples"] for run in runs)


@pytest.mark.parametrize(("room", "where"), [(24 + 16, "meta"), (24 + 15, "cpu")])
def test_a_view_lies_where_the_samples_do_if_it_fits(monkeypatch: pytest.MonkeyPatch, room: int, where: str) -> None:
    """On a device that reads from the CPU's memory every look-up would wait for all that it has still to do."""
    view = View(TopK(torch.zeros(2, 3), torch.zeros(2, 2, dtype=torch.int16), 5), {"embedding": torch.zeros(2, 1)})
    monkeypatch.setattr(stored_module, "room_for_data", lambda device: room)
    near = stored_module._near(view, torch.device("meta"))
    assert {one.device.type for one in near.tensors} == {where} == {near.device.type}


# ------------------------------------------------------------------------------------------------------- commands


def test_fill_list_verify_and_prune(kdrun: Command) -> None:
    words = ["teacher=cnn_tiny", "teacher.train.epochs=1", "epochs=2", "augment=[flip]", "dataset.limit=64"]
    filled = kdrun("store", "fill", *words)
    assert filled.code == 0
    assert "storing its outputs for 2 views of 64 samples" in filled.out
    used = kdrun("distill", *words, "student=cnn_tiny", "baseline=false")
    assert "its outputs for 2 views are in outputs/store/" in used.out
    assert "storing its outputs for 2 views" not in used.out
    assert "storing its outputs for the test split's 359 samples" in used.out
    listed = kdrun("store", "list")
    assert "2 views of 64 samples x 10 classes, flip" in listed.out
    assert kdrun("store", "verify").code == 0
    Path("outputs/store/other").mkdir()
    Path("outputs/store/other/store.json").write_text("{}")
    verified = kdrun("store", "verify")
    assert (verified.code, verified.out.count("left alone: outputs/store/other/")) == (1, 1)
    assert kdrun("store", "list").code == 0
    shutil.rmtree("outputs/store/other")
    file = next(Path("outputs/store").glob("*/view-00001.bin"))
    file.write_bytes(b"\0" * file.stat().st_size)
    verified = kdrun("store", "verify")
    assert verified.code == 1
    assert "damaged: view-00001.bin" in verified.out
    assert "removed" not in kdrun("store", "prune", "keep_gb=1").out
    assert "removed outputs/store/" in kdrun("store", "prune", "keep_gb=0").out
    assert kdrun("store", "list").out == ""
    for wrong in (["store"], ["store", "prune"], ["store", "list", "keep_gb=1"], ["store", "prune", "keep_gb=-1"]):
        assert kdrun(*wrong).code == 2


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    stores = [source(tmp_path, seed=seed) for seed in range(3)]
    for made in stores:
        made.fill()
    for age, made in enumerate(stores):
        os.utime(made.store.path / "store.json", (1000 - age, 1000 - age))
    size = next(kept(tmp_path / "store")).size
    removed = prune(tmp_path / "store", 1.5 * size / 1e9)
    assert [one.path for one in removed] == [stores[2].store.path, stores[1].store.path]


# ------------------------------------------------------------------------------------------------------ embeddings


def served(folder: Path, *words: str, precision: str = "fp32") -> Source:
    """A source whose loss is built: what it reads of the teacher is known."""
    made = source(folder, "teacher=mlp", *words, precision=precision)
    read, config = data(), made.config
    student = build(assembly.model_spec(config["model"], read, config["dataset"]))
    probe = assembly.probe_images(read)
    made.serve(assembly.learner(config, student, made.live.model, probe, read.train), read, probe)
    return made


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-6), ("bf16", 2e-2)])
def test_a_loss_that_reads_only_the_embedding_is_served_from_the_store(
    tmp_path: Path, precision: str, tolerance: float
) -> None:
    made = served(tmp_path, *MOVING, "loss=rkd", "teacher.outputs=stored", precision=precision)
    assert made.choose() == "stored"
    stored = made.answers("stored")
    for batch in made.loader.epoch(1):
        kept, live = stored(batch), made.live(batch)
        assert torch.allclose(kept.logits, live.logits, atol=tolerance)
        assert torch.allclose(kept.features["embedding"], live.features["embedding"], atol=tolerance)
        assert kept.features["embedding"].shape == (len(batch), 5)


def test_logits_alone_and_with_an_embedding_are_two_stores(tmp_path: Path) -> None:
    plain, embedded = (served(tmp_path, *MOVING, f"loss={loss}") for loss in ("kd", "rkd"))
    assert plain.store.path != embedded.store.path
    assert embedded.store.view_bytes == plain.store.view_bytes + SAMPLES * 5 * 4


def test_a_loss_that_reads_stages_is_not_stored(tmp_path: Path) -> None:
    made = served(tmp_path, *MOVING, "loss=fitnet")
    assert made.choose(shared=True) == "live"
    asked = served(tmp_path, *MOVING, "loss=fitnet", "teacher.outputs=stored")
    with pytest.raises(UsageError, match="reads the teacher's stages"):
        asked.choose()


def test_students_of_a_stored_and_a_live_embedding_learn_the_same(kdrun: Command) -> None:
    words = ["distill", "teacher=cnn_tiny", "student=mlp", "student.widths=[6]", "loss=crd", "dataset.limit=100"]
    words += ["epochs=2", "teacher.train.epochs=1", "baseline=false", "device=cpu", "loss.terms.crd.negatives=20"]
    runs = [kdrun(*words, f"teacher.outputs={how}").run for how in ("live", "stored")]
    found = [json.loads((run / "summary.json").read_text())["test/nll"] for run in runs]
    assert found[0] == pytest.approx(found[1], rel=1e-3), "the batches of the teacher differ, and nothing else"


# ----------------------------------------------------------------------------------- several machines, and no locks


def filled_by_two_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[int, set[int]]:
    """Two threads stand for two machines that have one process number, share a folder, and whose locks are not
    honoured; both have computed a view before either writes it. Gives the files that each view has been, by inode."""
    monkeypatch.setattr(lock.fcntl, "lockf", lambda *_: None)
    monkeypatch.setattr(files.platform, "node", lambda: threading.current_thread().name)
    both, turn, computed = threading.Barrier(2, timeout=30), threading.Lock(), source_module.answers
    been: dict[int, set[int]] = {0: set(), 1: set()}
    sources = [source(folder, *MOVING) for _ in range(2)]

    def answers(*given: Any) -> Any:
        answer = computed(*given)
        both.wait()
        return answer

    def written(*given: Any, **more: Any) -> None:
        with turn:
            files.write(*given, **more)
            for view, inodes in been.items():
                if sources[0].store.file(view).exists():
                    inodes.add(sources[0].store.file(view).stat().st_ino)

    monkeypatch.setattr(source_module, "answers", answers)
    monkeypatch.setattr(store_module, "write", written)
    with ThreadPoolExecutor(2) as machines:
        for done in [machines.submit(one.fill) for one in sources]:
            done.result(timeout=60)
    assert not sources[0].store.missing([0, 1])
    assert not list(folder.rglob("*.part"))
    return been


def test_two_fillers_without_locks_leave_one_whole_file_that_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    been = filled_by_two_at_once(tmp_path / "two", monkeypatch)
    assert [len(inodes) for inodes in been.values()] == [1, 1], "a file that others may have mapped is not replaced"
    alone = source(tmp_path / "one", *MOVING)
    monkeypatch.undo()
    alone.fill()
    two = next((tmp_path / "two").rglob("view-00001.bin"))
    assert two.read_bytes() == alone.store.file(1).read_bytes()


def test_a_writer_that_replaces_what_is_there_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_linked", lambda *_: False)
    assert max(len(inodes) for inodes in filled_by_two_at_once(tmp_path, monkeypatch).values()) == 2


def test_a_temporary_file_has_the_name_of_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines that share a folder may have one process number."""
    names = []
    for machine in ("one", "the/other"):
        monkeypatch.setattr(files.platform, "node", lambda machine=machine: machine)
        names.append(files._who())
    assert names == [f"one.{os.getpid()}", f"the-other.{os.getpid()}"]


def test_a_folder_without_locks_lets_everybody_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", refused)
    with lock.one_at_a_time(tmp_path, "0" * 16, "waiting"), (tmp_path / "x").open("w") as file:
        assert lock.take(file)
