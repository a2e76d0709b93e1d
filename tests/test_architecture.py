"""Who may import whom, and what nobody may do. The reasons stand in the messages."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = {"linearization", "cells", "credit", "recurrence", "update", "head", "least_squares"}
CORE |= {"frame", "learner", "ladder", "teaching", "lane_state", "saved", "native", "plan"}
CORE |= {"regressor"}
AT_THE_SIDE = {"scores", "report", "console", "health", "river_state", "tasks"}
AT_THE_SIDE |= {"checkpoint", "metrics", "overload", "codec", "features", "lanes"}
TOP = {
    "app",
    "daemon",
    "commands",
    "ckpt",
    "bench",
    "reference",
    "apart",
    "serving",
}  # composition: they may know everybody
# package or module -> which of ours it may import
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "__main__": {"cli"},
    "spi": set(),
    "linearization": set(),
    "cells": {"linearization"},
    "lane_state": set(),
    "native": set(),
    "columns": set(),
    "credit": {"linearization", "cells", "lane_state", "native", "saved"},
    "saved": set(),
    "recurrence": {"linearization", "cells", "credit", "lane_state", "saved"},
    "update": set(),
    "head": {"saved"},
    "least_squares": {"head", "saved"},
    "plan": {
        *("native", "cells", "credit", "recurrence", "update", "head", "least_squares"),
        "lane_state",
    },
    "frame": {"plan"},
    "learner": {"frame", "plan", "recurrence", "update", "head", "lane_state", "saved"},
    "regressor": {"credit", "frame", "head", "learner", "recurrence", "update"},
    "teaching": {"learner"},
    "ladder": {"frame", "learner", "credit", "teaching"},
    **{name: {"spi"} | AT_THE_SIDE for name in AT_THE_SIDE},
    # narrower than their neighbors
    "codec": {"spi"},
    "features": {"spi", "columns", "native"},
    "lanes": {"spi", "features"},
    "checkpoint": {"spi"},
    "river_state": {"checkpoint"},
    "scores": {"spi", "river_state", "columns", "native"},
    "tasks": {"spi", "features", "scores", "columns", "native"},
    "metrics": {"spi", "overload"},
    "overload": set(),
    "health": {"spi"},
    "config": {"spi"},
    "engine": {
        "spi",
        "columns",
        "frame",
        "learner",
        "codec",
        "features",
        "lanes",
        "tasks",
        "scores",
    },
    "runtime": {"spi", "config", "engine", "notify"} | AT_THE_SIDE,
    "preview": {"spi", "console", "engine", "features"},
    "tuning": {"config", "assembly", "runtime"},
    "ctl": {"config", "assembly", "console", "control"},
    "assembly": {"spi", "config", "lanes", "tasks", "health", "overload"} | CORE,
    "journal": {"spi", "checkpoint"},
    "producer": set(),
    "control": {"spi"},
    "notify": set(),
    "readers": {"spi", "engine"} | AT_THE_SIDE | CORE,
    "http": {"spi"},
    # words of the progress line; where a configured daemon serves; the menu that tells it things
    "top": {"spi", "http", "console", "config", "assembly", "control"},
    "migration": set(),
    "resuming": {"config", "app", "checkpoint", "journal", "migration", "runtime"},
    "results": {"spi", "report", "scores", "tasks"},
    "demo": {"config"},
    "probe": {"spi", "config", "assembly"},
    "evaluation": {"spi", "app", "daemon", "console", "report", "results"},
    "asking": {"spi", "config", "cli", "readers"},
    "cli": {"config", "asking", "dlq", "ctl", "control", "probe", "top", *TOP},
    "letters": {"checkpoint"},
    "dlq": {"spi", "config", "assembly", "checkpoint", "letters"},
    "testing": {"spi", "linearization", "cells", "credit"},
    **{name: {"*"} for name in TOP},
}
TORCH_AT_THE_TOP = CORE | {"engine", "assembly", "bench", "testing", "readers", "migration"}
TORCH_AT_THE_TOP |= {"serving"}
TORCH_INSIDE = TORCH_AT_THE_TOP | {"checkpoint"}
WITHOUT_TORCH = {
    "spi",
    "codec",
    "config",
    "assembly.settings",
    "cli",
    "asking",
    "readers.answering",
    "readers.supervisor",
    "readers.zeromq",
    "ctl",
    "notify",
    "testing",
}  # with all they import


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def part_of(path: Path) -> str:
    """stream_rnn/credit/ok.py -> credit; stream_rnn/learner.py -> learner."""
    return path.relative_to(ROOT / "stream_rnn").with_suffix("").parts[0]


def imports(path: Path, with_typing: bool = False, at_the_top: bool = False) -> Iterator[str]:
    """Dotted names of what `path` imports; imports for type checkers only where asked for."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        is_typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        is_inside = at_the_top and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (is_typing and not with_typing) or is_inside:
            skipped.update(ast.walk(node))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}:{node.lineno}: imports are absolute here"
            module = node.module or ""
            if module == "stream_rnn":  # from stream_rnn import app
                names = (alias.name for alias in node.names)
                yield from (f"stream_rnn.{n}" for n in names if not n.startswith("__"))
            else:
                yield module


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", modules("stream_rnn"), ids=ids)
def test_imports_go_one_way(path: Path) -> None:
    part = part_of(path)
    assert part in MAY_IMPORT, (
        f"stream_rnn/{part} is new: give it its place in MAY_IMPORT, as low as it will go"
    )
    allowed = MAY_IMPORT[part]
    for name in imports(path):
        if not name.startswith("stream_rnn.") or "*" in allowed:
            continue
        other = name.split(".")[1]
        assert other == part or other in allowed, (
            f"{ids(path)} imports {name}, but {part} may import "
            f"{sorted(allowed) or 'nothing of ours'}. Data flows one way (docs: architecture): "
            "hand in what is needed as an argument, or move the code to where both may look"
        )


@pytest.mark.parametrize("path", modules("stream_rnn/credit"), ids=ids)
def test_a_rule_knows_the_base_of_cells_and_no_cell(path: Path) -> None:
    for name in imports(path, with_typing=True):
        assert not name.startswith("stream_rnn.cells") or name == "stream_rnn.cells.base", (
            f"{ids(path)} imports {name}: a rule works with every cell through the Linearization"
        )


@pytest.mark.parametrize("path", [p for p in modules("stream_rnn") if part_of(p) in CORE], ids=ids)
def test_the_learning_core_needs_torch_and_nothing_else(path: Path) -> None:
    allowed = {"torch", "typing_extensions", "stream_rnn"} | sys.stdlib_module_names
    for name in imports(path, with_typing=True):
        assert name.split(".")[0] in allowed, (
            f"{ids(path)} imports {name}: the core runs wherever torch runs, so it may need "
            "torch, typing_extensions and the standard library only"
        )


@pytest.mark.parametrize("path", modules("stream_rnn") + modules("connectors"), ids=ids)
def test_torch_is_imported_where_tensors_are_handled_only(path: Path) -> None:
    is_ours = path.is_relative_to(ROOT / "stream_rnn")
    part = part_of(path) if is_ours else "connectors"
    for at_the_top, allowed in ((True, TORCH_AT_THE_TOP), (False, TORCH_INSIDE)):
        found = {name.split(".")[0] for name in imports(path, at_the_top=at_the_top)}
        assert part in allowed or not found & {"torch", "safetensors"}, (
            f"{ids(path)} imports torch, which costs 1.5 s and 200 MB: `stream-rnn --help` must "
            "answer at once, and a connector must run without it"
        )


@pytest.mark.parametrize("path", modules("connectors"), ids=ids)
def test_a_connector_knows_the_contract_only(path: Path) -> None:
    for name in imports(path, with_typing=True):
        assert not name.startswith(("stream_rnn", "connectors")) or name == "stream_rnn.spi", (
            f"{ids(path)} imports {name}: a connector imports stream_rnn.spi and nothing else of "
            "ours, like anybody's plug-in"
        )


@pytest.mark.parametrize("path", modules("stream_rnn"), ids=ids)
def test_connectors_are_named_by_strings(path: Path) -> None:
    assert not any(
        name.split(".")[0] == "connectors" for name in imports(path, with_typing=True)
    ), (
        f"{ids(path)} imports a connector: name it by a string and let config.build resolve it, "
        "so that the library of an unused one is never imported"
    )


@pytest.mark.parametrize("path", modules("stream_rnn") + modules("connectors"), ids=ids)
def test_nothing_is_unpickled_evaluated_or_swallowed(path: Path) -> None:
    for name in imports(path, with_typing=True):
        assert name.split(".")[0] not in ("pickle", "shelve", "marshal", "dill", "cloudpickle"), (
            f"{ids(path)} imports {name}: reading such a file runs what its author wants"
        )
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        where = f"{ids(path)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            banned = ("eval", "exec", "torch.load", "torch.save", "os.system")
            assert called not in banned, f"{where}: no {called}() here; input may be hostile"
        if isinstance(node, ast.ExceptHandler):
            is_broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            is_empty = all(isinstance(line, ast.Pass) for line in node.body)
            assert not (is_broad and is_empty), f"{where}: an error is swallowed; count it or raise"


@pytest.mark.parametrize("module", sorted(WITHOUT_TORCH))
def test_importing_it_does_not_import_torch(module: str) -> None:
    code = f"import sys, stream_rnn.{module}; print(*sorted(sys.modules), sep='\\n')"
    run = [sys.executable, "-c", code]
    loaded = subprocess.run(
        run, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"torch", "river", "zmq", "matplotlib"} & set(loaded)
    assert not heavy, f"importing stream_rnn.{module} imports {sorted(heavy)}: import it later"
