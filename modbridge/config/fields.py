"""What a config class says of its own fields: name, type, default, description."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import sys
import types
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typing_extensions import TypeAliasType

from modbridge.config.component import Affects, ComponentConfig, Part
from modbridge.config.reading import flow_text

_NAMES = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null", Any: "anything"}
_BOUNDS = (("ge", ">= "), ("gt", "> "), ("le", "<= "), ("lt", "< "), ("multiple_of", "multiple of "))


def field_table(config_cls: type[BaseModel]) -> list[dict[str, Any]]:
    """One row for every field of a config class and of the blocks inside it, those with dotted names.

    Columns: `name`, `type` (in words), `default` (JSON values; None too where there is none; of a block or component
    only what it says beyond its own defaults), `required` (wherever its block is given), `affects` ("everything", or
    the purposes of its `Affects` marks), `description`. The word `type` of a component is left out: it is the
    component's name. Nested components are one row; their fields are their own.
    """
    return list(_rows(config_cls, "", "everything", ()))


def _rows(cls: type[BaseModel], prefix: str, outer: str, open_: tuple[type, ...]) -> Iterator[dict[str, Any]]:
    told = descriptions(cls)
    for field_name, field in cls.model_fields.items():
        if field_name == "type" and issubclass(cls, ComponentConfig):
            continue
        name = prefix + config_name(field_name, field)
        affects = ", ".join(m.purpose for m in field.metadata if isinstance(m, Affects)) or outer
        yield {
            "name": name,
            "type": type_words(field),
            "default": _brief(default_of(field)),
            "required": field.is_required(),
            "affects": affects,
            "description": told.get(field_name, ""),
        }
        for inner in blocks_in(field):
            if inner not in open_:
                yield from _rows(inner, f"{name}.", affects, (*open_, cls, inner))


def config_name(name: str, field: FieldInfo) -> str:
    """What a field is called in a config file."""
    return field.validation_alias if isinstance(field.validation_alias, str) else field.alias or name


def default_of(field: FieldInfo) -> Any:
    """The default of a field; None where it has none, or where it depends on other fields."""
    if field.is_required() or field.default_factory_takes_validated_data:
        return None
    return field.get_default(call_default_factory=True)


def _brief(value: Any) -> Any:
    if not isinstance(value, BaseModel):
        return plain(value)
    given = {name: _brief(getattr(value, name)) for name in value.model_fields_set}
    return given["type"] if set(given) == {"type"} else given


def plain(value: Any) -> Any:
    """A default as plain JSON values."""
    if isinstance(value, BaseModel):
        return {config_name(n, f): plain(getattr(value, n)) for n, f in type(value).model_fields.items()}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [plain(item) for item in items]
    if isinstance(value, Enum):
        return plain(value.value)
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def part_kind(field: FieldInfo) -> str | None:
    """The kind of the component, or of the list or block of components, that a field holds."""
    marks = [
        *field.metadata,
        *(m for inner in walk(field.annotation) if is_annotated(inner) for m in inner.__metadata__),
    ]
    return next((mark.kind for mark in marks if isinstance(mark, Part)), None)


def blocks_in(field: FieldInfo) -> list[type[BaseModel]]:
    """The models a field holds that are blocks of this config, not components of their own."""
    if part_kind(field):
        return []
    found = [a for a in walk(field.annotation) if isinstance(a, type) and get_origin(a) is None]
    return [a for a in dict.fromkeys(found) if issubclass(a, BaseModel)]


def walk(annotation: Any) -> Iterator[Any]:
    """An annotation and everything inside it."""
    if isinstance(annotation, TypeAliasType):
        annotation = annotation.__value__
    yield annotation
    if get_origin(annotation) is Literal:
        return
    for inner in get_args(annotation)[:1] if is_annotated(annotation) else get_args(annotation):
        yield from walk(inner)


def is_annotated(annotation: Any) -> bool:
    return get_origin(annotation) is Annotated


def type_words(field: FieldInfo) -> str:
    """The type of a field in words: "integer >= 1 or null", "one of centred, text", "a prior"."""
    kind = part_kind(field)
    return _words(field.annotation, field.metadata, kind)


def _words(annotation: Any, metadata: Any = (), kind: str | None = None) -> str:
    if isinstance(annotation, TypeAliasType):
        annotation = annotation.__value__
    if is_annotated(annotation):
        return _words(annotation.__origin__, [*annotation.__metadata__, *metadata], kind)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        values = [flow_text(plain(value)) for value in args]
        return f"the word {values[0]}" if len(values) == 1 else f"one of {', '.join(values)}"
    if origin in (Union, types.UnionType):
        some = [arg for arg in args if arg is not type(None)]
        parts = [_words(arg, metadata, kind) for arg in some] + ["null"] * (len(some) < len(args))
        return " or ".join(dict.fromkeys(parts))
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return f"list of {_several(args[0], kind)}"
        return f"[{', '.join(_words(arg) for arg in args)}]"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"block of NAME: {_words(args[1], (), kind)}"
    if isinstance(origin, type) and args:
        return f"list of {_several(args[0], kind)}"
    if kind and annotation is not str:
        return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "block"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return f"one of {', '.join(flow_text(plain(member)) for member in annotation)}"
    name = _NAMES.get(annotation) or getattr(annotation, "__name__", str(annotation)).lower()
    limits = [f"{sign}{bound}" for mark in metadata for sign, bound in _limits(mark)]
    return f"{name} {', '.join(limits)}" if limits else name


def _several(annotation: Any, kind: str | None) -> str:
    return (f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s") if kind else _words(annotation)


def _limits(mark: Any) -> Iterator[tuple[str, Any]]:
    marks = mark.metadata if isinstance(mark, FieldInfo) else [mark]
    for one in marks:
        for attribute, sign in _BOUNDS:
            bound = getattr(one, attribute, None)
            if isinstance(bound, int | float):
                yield sign, bound


def descriptions(cls: type[BaseModel]) -> dict[str, str]:
    """The description of each field that has one: `Field(description=...)`, the docstring below the field, or what the
    class's own docstring says of it after "`name`:"."""
    found: dict[str, str] = {}
    for name, field in cls.model_fields.items():
        if field.description:
            found[name] = _one_line(field.description)
    models = [base for base in cls.__mro__ if issubclass(base, BaseModel) and base.__module__ != BaseModel.__module__]
    for base in models:
        for name, text in _attribute_docstrings(base).items():
            if name in cls.model_fields:
                found.setdefault(name, _one_line(text))
    for base in models:
        text = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        for name, field in cls.model_fields.items():
            said = found.get(name) or _said_of(config_name(name, field), text)
            if said:
                found[name] = said
    return found


def _attribute_docstrings(cls: type) -> dict[str, str]:
    module = sys.modules.get(cls.__module__)
    body = _class_bodies(module).get(cls.__qualname__, []) if module is not None else []
    found = {}
    for before, after in itertools.pairwise(body):
        if (
            isinstance(before, ast.AnnAssign)
            and isinstance(before.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            found[before.target.id] = after.value.value
    return found


@cache
def _class_bodies(module: types.ModuleType) -> dict[str, list[ast.stmt]]:
    """The statements of every class of a module, by qualified name; `inspect.getsource` of each class would parse the
    whole file each time."""
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):  # no source at hand: made in a shell or by a tool
        return {}
    found: dict[str, list[ast.stmt]] = {}
    open_nodes: list[tuple[str, ast.AST]] = [("", tree)]
    while open_nodes:
        prefix, node = open_nodes.pop()
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                found[f"{prefix}{child.name}"] = child.body
                open_nodes.append((f"{prefix}{child.name}.", child))
            elif isinstance(child, ast.FunctionDef):
                open_nodes.append((f"{prefix}{child.name}.<locals>.", child))
            elif isinstance(child, ast.stmt):
                open_nodes.append((prefix, child))
    return found


def _said_of(name: str, text: str) -> str:
    """What a docstring says of `name`: after "`name`:", else in a sentence that begins with it, else in any."""
    sentences: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        pieces = re.split(r"(`\w+`[^`:.(]{0,30}: )", paragraph)
        for mark, said in zip(pieces[1::2], pieces[2::2], strict=True):
            if mark.startswith(f"`{name}`"):
                return _one_line(re.split(r"(?<=[.)])\s+(?=`)", said)[0])
        sentences += re.split(r"(?<=[.)])\s+(?=[A-Z`])", paragraph)
    naming = [sentence for sentence in sentences if f"`{name}`" in sentence]
    return _one_line(next(iter(sorted(naming, key=lambda s: not s.startswith(f"`{name}`"))), ""))


def _one_line(text: str) -> str:
    return " ".join(text.split())
