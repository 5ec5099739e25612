"""Factories in modules and files, for MODEL and for DATA alike: read their keywords, find them, call them.

Imports no torch: reading a specification must not.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import stat
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

from weyl._text import beside, expanded, near, one_line
from weyl.errors import InputError, WeylError

__all__ = ["Wanted", "call_factory", "call_named", "is_factory", "read_keywords", "shown"]


@dataclass(frozen=True)
class Wanted:
    """What a kind of factory is to give, and how to say that it does not.

    Attributes
    ----------
    what : str
        The word on the command line, ``MODEL`` or ``DATA``.
    returns : str
        What the factory must return, for messages.
    error : type
        Raised for everything that goes wrong.
    built : callable
        Whether an object needs no call, as it is already what the factory would return.
    built_name : str
        How such an object is called.
    """

    what: str
    returns: str
    error: type[InputError]
    built: Callable[[object], bool]
    built_name: str

    @property
    def alias(self) -> str:
        """Prefix of the names under which files are imported: a file called torch.py must hide nothing."""
        return f"_weyl_{self.what.lower()}_"


def read_keywords(spec: str, query: str, what: str, error: type[InputError]) -> dict[str, Any]:
    """Read ``a=1&b=x``; values are Python literals where they can be read as such, otherwise text.

    Parameters
    ----------
    spec : str
        The whole specification, for messages.
    query : str
        What follows ``?``; ``%26`` stands for ``&``.
    what : str
        The word on the command line, ``MODEL`` or ``DATA``.
    error : type
        Raised if the text does not have this form.

    Raises
    ------
    InputError
        Of the type ``error``.

    Examples
    --------
    >>> read_keywords("mlp?a=1&b=x", "a=1&b=x", "MODEL", InputError)
    {'a': 1, 'b': 'x'}
    """
    keywords: dict[str, Any] = {}
    for item in query.split("&") if query else ():
        key, equals, value = item.partition("=")
        if not equals or not key.isidentifier():
            raise error(f"{what} '{one_line(spec)}': key=value is expected after '?', got '{one_line(item)}'")
        if key in keywords:
            raise error(f"{what} '{one_line(spec)}': {key} is given twice; keep one of them")
        keywords[key] = _value(unquote(value))
    return keywords


def is_factory(target: str, factory: str) -> str:
    """Return ``"file"`` or ``"module"`` for what may stand on both sides of the colon, else an empty string.

    Examples
    --------
    >>> is_factory("nets/tiny.py", "make"), is_factory("package.module", "Class.make"), is_factory("C", "/x")
    ('file', 'module', '')
    """
    if not target or not all(part.isidentifier() for part in factory.split(".")):
        return ""
    if target.endswith(".py"):
        return "file"
    return "module" if all(part.isidentifier() for part in target.split(".")) else ""


def call_named(kind: str, target: str, factory: str, keywords: Mapping[str, Any], name: str, wanted: Wanted) -> object:
    """Import a module, or run a file, and call the factory in it; both may import what lies beside them.

    Parameters
    ----------
    kind : {'module', 'file'}
        What ``target`` is.
    target : str
        Dotted module, or path of a Python file.
    factory : str
        Name in it, possibly dotted.
    keywords : mapping
        Arguments of the call.
    name : str
        Begins every message.
    wanted : Wanted
        What the factory is to return.

    Raises
    ------
    InputError
        Of the type that ``wanted`` names, if the factory cannot be found or called.
    """
    folder = expanded(target).parent if kind == "file" else Path.cwd()
    with _importable(folder):
        owner = _run_file(target, name, wanted) if kind == "file" else _import(target, name, wanted)
        return call_factory(_lookup(owner, factory, name, wanted), keywords, name, wanted)


def call_factory(factory: object, keywords: Mapping[str, Any], name: str, wanted: Wanted) -> object:
    """Call a factory; what is already built stands for itself.

    Parameters
    ----------
    factory : object
        What the name led to.
    keywords : mapping
        Arguments of the call.
    name : str
        Begins every message.
    wanted : Wanted
        What the factory is to return.

    Raises
    ------
    InputError
        Of the type that ``wanted`` names, if it cannot be called so, or raises.
    """
    built = wanted.built(factory)
    if built and not keywords:
        return factory
    if built or not callable(factory):
        what = wanted.built_name if built else f"a {type(factory).__name__}"
        raise wanted.error(f"{name}: a function that returns {wanted.returns} is expected, but this is {what}")
    _check_keywords(factory, keywords, name, wanted)
    try:
        return factory(**keywords)
    except WeylError:
        raise
    except (Exception, SystemExit) as error:
        raise wanted.error(f"{name}: the factory raised {shown(error)}") from error


def shown(error: BaseException) -> str:
    """Show a foreign exception in one line."""
    text = one_line(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let code import what lies beside it, as ``python file.py`` and ``python -m module`` do."""
    try:
        entry = str(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name that cannot be: opening it says so
        entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


def _import(dotted: str, name: str, wanted: Wanted) -> ModuleType:
    """Import a module; an unknown one is told apart from one whose own imports fail."""
    importlib.invalidate_caches()
    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if dotted != missing and not dotted.startswith(missing + "."):
            raise wanted.error(f"{name}: importing {dotted} failed: {one_line(error)}; install it") from error
        parent, _, leaf = missing.rpartition(".")
        path = getattr(sys.modules.get(parent), "__path__", []) if parent else None
        names = [found.name for found in pkgutil.iter_modules(path)]
        raise wanted.error(
            f"{name}: there is no module {missing!r} on the import path or in this folder{near(leaf, names)}"
        ) from error
    except (Exception, SystemExit) as error:
        raise wanted.error(f"{name}: importing {dotted} raised {shown(error)}") from error


def _run_file(path_text: str, name: str, wanted: Wanted) -> ModuleType:
    """Run a Python file as a module of its own."""
    path = expanded(path_text)
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError as error:
        raise wanted.error(f"{name}: no such file: {one_line(path)}{near(path.name, beside(path))}") from error
    except (OSError, ValueError) as error:  # too long, a folder that may not be read, a loop of links
        why = one_line(getattr(error, "strerror", None) or error)
        raise wanted.error(f"{name}: {why}: {one_line(path)}") from error
    if not regular:
        raise wanted.error(f"{name}: not a regular file: {one_line(path)}")
    alias = f"{wanted.alias}{path.stem}"
    module_spec = importlib.util.spec_from_file_location(alias, path)
    assert module_spec is not None and module_spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(module_spec)
    # In sys.modules, because dataclasses and pickle look a class's module up there.
    sys.modules[alias] = module
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[alias]
        raise wanted.error(f"{name}: running {one_line(path)} raised {shown(error)}") from error
    return module


def _lookup(owner: ModuleType, dotted: str, name: str, wanted: Wanted) -> object:
    """Follow ``factory`` or ``Class.factory`` from a module."""
    found: object = owner
    for part in dotted.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            public = [n for n in dir(found) if not n.startswith("_")]
            where = "the file" if owner.__name__.startswith(wanted.alias) else owner.__name__
            raise wanted.error(f"{name}: {where} has no {part!r}{near(part, public)}") from error
    return found


def _check_keywords(factory: Callable[..., object], keywords: Mapping[str, Any], name: str, wanted: Wanted) -> None:
    """Refuse wrong keywords before the call, so that a TypeError from inside is not mistaken for one."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # some callables written in C have none
        return
    try:
        signature.bind(**keywords)
    except TypeError as error:
        named = [p.name for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        hint = next((near(key, named) for key in keywords if key not in named), "")
        takes = ", ".join(named) or "no keyword"
        raise wanted.error(f"{name}: {one_line(error)}; the factory takes {takes}{hint}") from error


def _value(text: str) -> Any:
    """Read a Python literal, or keep the text."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # text such as "16or32" is warned about before it fails to parse
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
