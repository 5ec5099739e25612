"""Frameworks are imported when they are needed, and a missing one is named."""

import subprocess
import sys

import pytest

import weyl.callbacks
from weyl.errors import MissingExtraError

PACKAGES = {
    "CollapseCallback": "lightning",
    "CollapseMetric": "torchmetrics",
    "CollapseTrainerCallback": "transformers",
}


def run(code):
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_no_framework_is_imported_at_first():
    code = """
import sys, weyl.callbacks, weyl.nn
weyl.callbacks.watch
heavy = ("lightning", "pytorch_lightning", "torchmetrics", "transformers", "tensorboard", "matplotlib", "scipy")
print("seen", *(name for name in heavy if name in sys.modules))
"""
    assert run(code) == ["seen"]
    assert run(code.replace("weyl.callbacks.watch", "import matplotlib")) == ["seen", "matplotlib"]


@pytest.mark.parametrize(("name", "package"), PACKAGES.items())
def test_a_missing_package_is_named_with_its_extra(monkeypatch, name, package):
    module, _, extra = weyl.callbacks._LATE[name]
    monkeypatch.delitem(sys.modules, f"weyl.callbacks.{module}", raising=False)
    for loaded in [key for key in sys.modules if key == package or key.startswith(f"{package}.")]:
        monkeypatch.setitem(sys.modules, loaded, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"^{name} needs {package}, .*pip install 'weyl\[{extra}\]'$"):
        getattr(weyl.callbacks, name)


def test_another_missing_module_is_not_taken_for_it(monkeypatch):
    monkeypatch.setitem(weyl.callbacks._LATE, "CollapseMetric", ("_absent", "torchmetrics", "torchmetrics"))
    with pytest.raises(ModuleNotFoundError, match="_absent"):
        _ = weyl.callbacks.CollapseMetric


def test_public_names():
    assert all(hasattr(weyl.callbacks, name) for name in weyl.callbacks.__all__)
    assert dir(weyl.callbacks) == sorted(weyl.callbacks.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Collapser'"):
        _ = weyl.callbacks.Collapser
