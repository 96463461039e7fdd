"""YAML and `key=value` overrides into frozen dataclasses; what is not known is refused by name."""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from hallo_live_core.errors import HalloLiveError

T = TypeVar("T")


class RecipeError(HalloLiveError):
    """A recipe cannot work; raised before anything is read or built."""


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        RecipeError: the file is missing, is no YAML, or holds no mapping.
        HalloLiveError: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise HalloLiveError(
            "Recipes need the package pyyaml", fix='pip install "hallo-live[train]"'
        ) from error
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(
            f"There is no recipe {path}", found=error.strerror, fix="check the path"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML", found=error) from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path} holds no settings", found=type(content).__name__)
    return content


def parse_override(text: str) -> dict[str, Any]:
    """`run.max_steps=10` as a nested mapping; the value is YAML.

    Raises:
        RecipeError: there is no `=`, or the value is no YAML.
    """
    import yaml

    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise RecipeError("An override must be key=value", found=text, fix="run.max_steps=10")
    try:
        nested: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"The value of {key} is not YAML", found=value) from error
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return nested


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings united; where both have a value, `above` wins."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def build(kind: type[T], values: object, where: str = "") -> T:
    """A dataclass from a mapping; every value must have the field's type.

    Raises:
        RecipeError: an unknown key (the nearest known one is named), a missing or a wrong value.
    """
    if not isinstance(values, Mapping):
        raise RecipeError(f"{_at(where)} must be a group of settings", found=repr(values))
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}  # pyright: ignore[reportArgumentType]
    for key in values:
        if key not in fields:
            raise _unknown(str(key), list(fields), where)
    required = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and name not in values
    ]
    if required:
        raise RecipeError(f"{_at(where)} needs {', '.join(required)}", fix="add it to the recipe")
    ready = {
        key: _convert(hints[key], value, f"{where}.{key}".lstrip("."))
        for key, value in values.items()
    }
    try:
        return kind(**ready)
    except RecipeError:
        raise
    except HalloLiveError as error:
        problem = f"{_at(where)}: {error.problem}"
        raise RecipeError(problem, found=error.found, fix=error.fix) from error


def as_mapping(recipe: Any) -> Any:  # noqa: ANN401 - any dataclass, list or plain value
    """A dataclass as plain values that YAML and JSON can hold, the inverse of `build`."""
    if dataclasses.is_dataclass(recipe):
        return {
            field.name: as_mapping(getattr(recipe, field.name))
            for field in dataclasses.fields(recipe)
            if field.init
        }
    if isinstance(recipe, Mapping):
        return {name: as_mapping(value) for name, value in recipe.items()}
    if isinstance(recipe, tuple | list):
        return [as_mapping(value) for value in recipe]
    return str(recipe) if isinstance(recipe, Path) else recipe


def _convert(hint: Any, value: Any, where: str) -> Any:  # noqa: ANN401 - whatever the field holds
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, where)
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        return _convert(next(o for o in options if o is not type(None)), value, where)
    if origin is Literal:
        if isinstance(value, bool) and "no" in options:  # YAML reads yes and no as truth values
            value = "yes" if value else "no"
        if value in options:
            return value
        raise _wrong(where, value, "one of " + ", ".join(map(str, options)))
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise _wrong(where, value, "a group of settings")
        return {str(k): _convert(options[1], v, f"{where}.{k}") for k, v in value.items()}
    if origin is tuple:
        return _sequence(options, value, where)
    return _plain(hint, value, where)


def _sequence(options: Sequence[Any], value: object, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong(where, value, "a list")
    kinds = [options[0]] * len(value) if options[-1] is Ellipsis else list(options)
    if len(kinds) != len(value):
        raise _wrong(where, value, f"{len(kinds)} values")
    return tuple(_convert(kind, item, where) for kind, item in zip(kinds, value, strict=True))


def _plain(hint: Any, value: Any, where: str) -> Any:  # noqa: ANN401
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and isinstance(value, str):  # YAML reads 1e-5 as text
        try:
            return float(value)
        except ValueError:
            raise _wrong(where, value, "a number") from None
    if hint is float and number:
        return float(value)
    if hint is int and number and value == int(value):
        return int(value)
    if hint in (bool, str) and isinstance(value, hint):
        return value
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    raise _wrong(where, value, names.get(hint, hint.__name__))


def _wrong(where: str, value: object, wanted: str) -> RecipeError:
    return RecipeError(f"{where} must be {wanted}", found=repr(value))


def _unknown(key: str, known: list[str], where: str) -> RecipeError:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return RecipeError(
        f"Unknown setting {key!r} in {where or 'the recipe'}",
        found="known settings are " + ", ".join(known),
        fix=f"did you mean {near[0]!r}?" if near else "remove it",
    )


def _at(where: str) -> str:
    return where or "The recipe"
