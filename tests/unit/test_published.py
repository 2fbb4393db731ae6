"""Weights that torchvision publishes: downloaded, checked, and the network then answers as torchvision's own."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models._api import Weights

from kdrun.errors import UsageError
from kdrun.models.building import build
from kdrun.models.torchvision import published
from kdrun.origins import load_origin

CLASSES = [f"class {number}" for number in range(1000)]
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.fixture
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


def put_into_cache(home: Path, network: nn.Module, weights: Any) -> None:
    """The network's weights as the file that torchvision would download."""
    file = home / "hub" / "checkpoints" / weights.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.save(network.state_dict(), file)


def as_torchvision_builds_it(name: str) -> nn.Module:
    """Its network for published weights, of random ones that let an image through to the end."""
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    if options:
        options |= {"transform_input": True, "aux_logits": True}
    network = models.get_model(name, weights=None, **options).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train().momentum = 1.0
    with torch.no_grad():
        network(torch.randn(8, 3, 96, 96) + 1.0)
    return network.eval()


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize(("name", "size"), [("mobilenet_v2", 96), ("googlenet", 96), ("inception_v3", 96)])
def test_the_network_answers_as_torchvisions_own(name: str, size: int, tmp_path: Path) -> None:
    theirs = as_torchvision_builds_it(name)
    put_into_cache(tmp_path, theirs, models.get_model_weights(name).IMAGENET1K_V1)
    options = {"name": name, "stem": "original", "min_size": 75}
    images = {"channels": 3, "network_channels": 3, "size": size, "mean": [0.0] * 3, "std": [1.0] * 3}
    ours = build({"kind": "torchvision", "options": options, "classes": CLASSES, **images})
    node = dict.fromkeys(("checkpoint", "rename", "mean", "std")) | {"kind": "torchvision", "name": name}
    origin = load_origin(ours, node | {"weights": "IMAGENET1K_V1"}, CLASSES)
    assert origin is not None
    assert origin.complete
    shown = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    mean, std = (torch.tensor(IMAGENET[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected, got = theirs((shown / 255 - mean) / std), ours.net.eval()(shown)
    apart = (expected[0] - expected[1]).abs().max()
    assert (got - expected).abs().max() < 1e-3 * apart


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server on this machine with a file in the place of resnet18's weights; `served(honest)` starts it."""
    made = io.BytesIO()
    torch.save({"number": torch.arange(3.0)}, made)
    content = made.getvalue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = TCPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def start(honest: bool) -> None:
        digest = hashlib.sha256(content).hexdigest()[:8] if honest else "00000000"
        address = f"http://127.0.0.1:{server.server_address[1]}/resnet18-{digest}.pth"
        entry = models.ResNet18_Weights.IMAGENET1K_V1
        moved = Weights(address, entry.transforms, entry.meta)
        monkeypatch.setattr(entry, "_value_", moved)

    yield start
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("_elsewhere")
def test_what_was_downloaded_is_what_was_published(served: Any) -> None:
    served(honest=True)
    assert published("resnet18", "IMAGENET1K_V1").state["number"].tolist() == [0, 1, 2]


@pytest.mark.usefixtures("_elsewhere")
def test_other_bytes_than_those_published_are_refused(served: Any) -> None:
    served(honest=False)
    with pytest.raises(UsageError, match=r"cannot be had \(invalid hash value"):
        published("resnet18", "IMAGENET1K_V1")
