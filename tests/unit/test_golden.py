"""Golden numbers: what must not change without a decision (and a higher RESULT_VERSION)."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch

from kdrun.datasets.augment import crop, rotate
from kdrun.datasets.hashing import Draw, hash32
from kdrun.datasets.split import stratified
from kdrun.losses.kd import kd_loss
from kdrun.records.fingerprint import fingerprint
from tests.conftest import Answer

GOLDEN = {
    "hash": [1431005802, 2329174734, 2422660249, 209620731],
    "stratified": [0, 1, 8, 15, 17, 18],
    "crop": [270, 1926, 2150, 3075],
    "rotate": [572, 1703, 3160, 4340],
    "kd": 1.4376555681228638,
    "fingerprint": "09d6e11a5f7a844d8aa4641233707f47a2e4c615de9f35682d02ef5f07b854d0",
}


def test_hash_split_views_loss_and_fingerprint() -> None:
    index = torch.arange(4)
    assert hash32(index, 7, 3).tolist() == GOLDEN["hash"]
    taken = stratified(torch.arange(20) % 2, torch.arange(20), 5, count=6)
    assert taken.nonzero().flatten().tolist() == GOLDEN["stratified"]
    images = torch.arange(4 * 36, dtype=torch.uint8).view(4, 1, 6, 6)
    assert crop.apply(images, Draw(1, 2, index), padding=2).long().sum(dim=(1, 2, 3)).tolist() == GOLDEN["crop"]
    turned = rotate.apply(images, Draw(1, 2, index), degrees=20.0).long().sum(dim=(1, 2, 3)).tolist()
    assert turned == pytest.approx(GOLDEN["rotate"], abs=4)  # a grey level may round the other way elsewhere
    student = torch.tensor([[1.0, 2.0, 3.0], [0.5, -1.0, 2.5]])
    assert kd_loss(student, student.flip(1), 4.0).item() == pytest.approx(GOLDEN["kd"], rel=1e-6)
    assert fingerprint({"a": 1, "b": [1.5, None]}) == GOLDEN["fingerprint"]


def test_a_short_training_on_digits_ends_where_it_always_has(kdrun: Callable[..., Answer]) -> None:
    run = kdrun("train", "model=mlp", "model.widths=[16]", "epochs=3", "optimizer.lr=0.1", "device=cpu").run
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    summary = json.loads((run / "summary.json").read_text())
    assert last["loss"] == pytest.approx(0.11116, rel=0.02)  # other processors round otherwise
    assert summary["test/accuracy"] == pytest.approx(0.9276, abs=0.015)
