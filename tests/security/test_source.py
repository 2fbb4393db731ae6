"""Nothing in kdrun's sources can run what it reads; the reader of the one pickle there is admits arrays alone."""

from __future__ import annotations

import ast
import io
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kdrun.datasets import cifar
from kdrun.errors import UsageError
from tests.conftest import ROOT, mutated

FILES = sorted((ROOT / "kdrun").rglob("*.py"))
PICKLES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "shelve"}
CALLS = {"eval", "exec", "compile", "__import__", "execfile", "runpy"}
METHODS = {"eval", "compile"}  # as methods of other things than builtins: model.eval(), re.compile()
ATTRIBUTES = {
    ("os", "system"),
    ("os", "popen"),
    ("tempfile", "mktemp"),
    ("torch", "hub"),
    ("torch", "_load"),
    ("torch", "jit"),
    ("hydra", "utils"),
    ("subprocess", "getoutput"),
    ("subprocess", "getstatusoutput"),
}
NAMES = {
    "instantiate",
    "get_method",
    "get_class",
    "get_object",
    "unsafe_load",
    "full_load",
    "unsafe_load_all",
    "full_load_all",
    "UnsafeLoader",
    "FullLoader",
    "mktemp",
}
KEYWORDS = {("weights_only", False), ("allow_pickle", True), ("shell", True)}
EXCEPTIONS = {
    "datasets/cifar.py": ["import pickle"],  # for the unpickler tested below
    "launchers/joblib.py": [  # the pool of workers, which reads no file
        "from joblib.effective_n_jobs",
        "from joblib.Parallel",
        "from joblib.delayed",
        "from joblib.externals.loky.get_reusable_executor",
    ],
}


def violations(source: str) -> Iterator[str]:
    """One line for each place that could run something foreign."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (f"import {alias.name}" for alias in node.names if _forbidden_module(alias.name))
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            wrong = [name for name in names if _forbidden_module(name) or _forbidden_name(name) or name == "torch.load"]
            yield from (f"from {name}" for name in wrong)
        elif isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            yield from [name] if _forbidden_name(name) else []
        elif isinstance(node, ast.Name) and node.id in NAMES:
            yield node.id
        elif isinstance(node, ast.Call):
            yield from _forbidden_call(node)


def _forbidden_module(name: str) -> bool:
    return name.split(".")[0] in PICKLES or name.startswith(("hydra.utils", "torch.hub", "runpy"))


def _forbidden_name(name: str) -> bool:
    parts = name.split(".")
    return parts[-1] in NAMES or tuple(parts[-2:]) in ATTRIBUTES or tuple(parts[:2]) in ATTRIBUTES


def _forbidden_call(node: ast.Call) -> Iterator[str]:
    name, said = ast.unparse(node.func), ast.unparse(node)
    values = {word.arg: getattr(word.value, "value", word.value) for word in node.keywords}
    owner, _, last = name.rpartition(".")
    if last in CALLS and (last not in METHODS or owner in ("", "builtins")):
        yield said
    if name == "torch.load" and values.get("weights_only") is not True:
        yield said
    if owner.split(".")[-1] == "yaml" and last in ("load", "load_all"):
        yield said
    if KEYWORDS & {(key, value) for key, value in values.items() if isinstance(value, bool)}:
        yield said


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_unsafe_is_called(file: Path) -> None:
    found = list(violations(file.read_text()))
    assert found == EXCEPTIONS.get(file.relative_to(ROOT / "kdrun").as_posix(), [])


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle",
        "import dill as d",
        "from shelve import open",
        "from cloudpickle import loads",
        "eval('1')",
        "exec(text)",
        "builtins.exec(text)",
        "compile(text, '', 'exec')",
        "__import__(name)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "from torch import load",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(words, shell=True)",
        "os.system(text)",
        "from os import system",
        "yaml.load(text, Loader=loader)",
        "yaml.unsafe_load(text)",
        "yaml.full_load(text)",
        "loader = yaml.UnsafeLoader",
        "from yaml import FullLoader",
        "hydra.utils.instantiate(node)",
        "from hydra.utils import call",
        "from hydra import utils",
        "instantiate(node)",
        "torch.hub.load(a, b)",
        "from torch import hub",
        "import torch.hub",
        "tempfile.mktemp()",
    ],
)
def test_what_is_planted_is_found(planted: str) -> None:
    assert list(violations(planted))


@pytest.mark.parametrize(
    "innocent",
    [
        "model.eval()",
        "re.compile('x')",
        "torch.load(path, weights_only=True)",
        "yaml.safe_load(text)",
        "torch.compile(net)",
    ],
)
def test_what_is_innocent_is_not(innocent: str) -> None:
    assert not list(violations(innocent))


# ------------------------------------------------------------------------------------- the one reader of pickles


def asks_for(module: str, name: str) -> bytes:
    return (
        b"\x80\x04\x8c"
        + bytes([len(module)])
        + module.encode()
        + b"\x8c"
        + bytes([len(name)])
        + name.encode()
        + b"\x93."
    )


@pytest.mark.parametrize(
    "wanted",
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("numpy", "load"),
        ("numpy", "load.__globals__"),
        ("numpy", "ndarray.tofile"),
        ("numpy.core.multiarray", "scalar"),
        ("_codecs", "decode"),
        ("_codecs", "lookup"),
        ("kdrun.datasets.cifar", "unpickle"),
        ("torch", "load"),
        ("numpy.f2py", "compile"),
    ],
    ids=lambda wanted: ".".join(wanted),
)
def test_the_cifar_reader_admits_no_other_global(tmp_path: Path, wanted: tuple[str, str]) -> None:
    (tmp_path / "batch").write_bytes(asks_for(*wanted))
    with pytest.raises(UsageError, match=r"it asks for") as refused:
        cifar.unpickle(tmp_path / "batch")
    assert ".".join(wanted) in str(refused.value)


def test_the_cifar_reader_admits_what_the_published_files_need(tmp_path: Path) -> None:
    content = {"data": np.arange(6, dtype=np.uint8).reshape(2, 3), "labels": [1, 2], "names": ["a", "ü"]}
    for protocol in (0, 2, 4):
        (tmp_path / "batch").write_bytes(pickle.dumps(content, protocol))
        read = cifar.unpickle(tmp_path / "batch")
        assert (read["data"].tolist(), read["labels"]) == (content["data"].tolist(), [1, 2])


def test_everything_admitted_is_harmless() -> None:
    """Rebuilding arrays and encoding text: none of these opens, imports or calls what it is given."""
    assert {f"{module.replace('_core', 'core')}.{name}" for module, name in cifar.ADMITTED} == {
        "numpy.core.multiarray._reconstruct",
        "numpy.ndarray",
        "numpy.dtype",
        "_codecs.encode",
    }


def test_a_reader_that_admits_all_is_noticed() -> None:
    lax = mutated(cifar, "if (module, name) not in ADMITTED:", "if False:")
    assert lax.ArraysOnly(io.BytesIO(asks_for("os", "getcwd"))).load().__name__ == "getcwd"
