"""The arguments of a function as one JSON object, and its result: written, checked and read.

Types are those of msgspec: what JSON has, dataclasses and Structs, `datetime` and its kin,
`Decimal`, `UUID`, enums, sets and tuples. Whatever mentions pydantic is pydantic's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Protocol, cast, get_args, get_type_hints

import msgspec

from toril.errors import InvalidJob
from toril.types import Json, JsonObject
from toril.worker.active_job import ActiveJob

_LONGEST: Final = 80
"""Characters of a value that an error message shows."""


class Misfit(ValueError):
    """A value is not of its type; the text says what was expected, and what came."""


class Carrier(Protocol):
    """Carries the values of one type through JSON."""

    def encode(self, value: Any, /) -> Json:
        """The value as JSON. Raises `Misfit`."""
        ...

    def decode(self, value: Json, /) -> Any:
        """The value of that JSON. Raises `Misfit`."""
        ...


def carrier(annotation: Any) -> Carrier:
    """What carries values of a type. Raises `TypeError` if nothing does."""
    if any(_is_of_pydantic(part) for part in _parts(annotation)):
        return _Pydantic(annotation)
    return _Msgspec(annotation)


class _Msgspec:
    def __init__(self, annotation: Any) -> None:
        self._type = annotation
        # Nothing else tells that there is a type in it which msgspec knows nothing of.
        msgspec.json.schema(annotation, schema_hook=_known)

    def encode(self, value: Any, /) -> Json:
        try:
            return cast(Json, msgspec.to_builtins(value, str_keys=True, enc_hook=_written))
        except (TypeError, ValueError, NotImplementedError, RecursionError) as error:
            raise Misfit(f"{error}; it is {shown(value)}") from None

    def decode(self, value: Json, /) -> Any:
        try:
            return msgspec.convert(value, self._type, str_keys=True, dec_hook=_read)
        except (msgspec.ValidationError, RecursionError) as error:
            what, _, place = str(error).partition(" - at `$")
            where = f" at {place.rstrip('`')}" if place else ""
            told = what[:1].lower() + what[1:]
            raise Misfit(f"{told}{where}; it is {shown(value)}") from None


class _Pydantic:
    def __init__(self, annotation: Any) -> None:
        from pydantic import TypeAdapter

        self._adapter: TypeAdapter[Any] = TypeAdapter(annotation)

    def encode(self, value: Any, /) -> Json:
        from pydantic_core import PydanticSerializationError

        try:
            # What is not of its type is found when it is read again.
            written = self._adapter.dump_python(value, mode="json", by_alias=True, warnings="none")
        except PydanticSerializationError as error:
            raise Misfit(f"{error}; it is {shown(value)}") from None
        return cast(Json, written)

    def decode(self, value: Json, /) -> Any:
        from pydantic import ValidationError

        try:
            # As JSON: strict models take a text for a date from there, and from nowhere else.
            return self._adapter.validate_json(msgspec.json.encode(value))
        except ValidationError as error:
            raise Misfit(f"{_told_by(error.errors())}; it is {shown(value)}") from None


def _told_by(errors: Sequence[Mapping[str, Any]]) -> str:
    """The errors of pydantic in one line."""
    return "; ".join(
        f"{'.'.join(map(str, error['loc']))}: {error['msg']}" if error["loc"] else error["msg"]
        for error in errors
    )


@lru_cache(maxsize=256)
def _adapted(kind: Hashable) -> _Pydantic:
    return _Pydantic(kind)


def _parts(annotation: Any) -> Iterator[Any]:
    """An annotation and all that stands in its brackets."""
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def _is_of_pydantic(part: Any) -> bool:
    """Whether pydantic gave it: a model, a type, or what stands in an `Annotated`."""
    if isinstance(part, type) and hasattr(part, "__get_pydantic_core_schema__"):
        return True
    home = type(part).__module__.partition(".")[0]
    return home in {"pydantic", "annotated_types"} or hasattr(part, "__pydantic_validator__")


def _known(kind: type) -> dict[str, Any]:
    """Answer msgspec, which asks for a type within another that it does not know."""
    if not _is_of_pydantic(kind):
        raise NotImplementedError
    return {"type": "object"}


def _written(value: Any) -> Any:
    if not _is_of_pydantic(type(value)):
        kind = type(value).__name__
        raise NotImplementedError(f"a value of type {kind} cannot be stored as JSON")
    return _adapted(cast(Hashable, type(value))).encode(value)


def _read(kind: type, value: Any) -> Any:
    return _adapted(kind).decode(value)


def shown(value: object) -> str:
    """A value as an error message shows it."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


class Arguments:
    """The arguments of a task's function as one JSON object.

    Args:
        function: Whose. Each parameter has a type; the first may be the `ActiveJob`.
        task: The task's name, for error messages.

    Raises:
        TypeError: A parameter without a type, or of one that cannot be carried as JSON.
    """

    def __init__(self, function: Callable[..., object], task: str) -> None:
        self._task = task
        parameters = list(inspect.signature(function).parameters.values())
        types = _types_of(function, task)
        self.takes_job = bool(parameters) and types.get(parameters[0].name) is ActiveJob
        if self.takes_job:
            del parameters[0]
        elif parameters and types.get(parameters[0].name) is Any:
            raise TypeError(
                f"task {task!r}: the first parameter cannot be Any, as type checkers would take "
                "it for the job; toril.plugins.Json is any value that JSON has"
            )
        self._signature = inspect.Signature(parameters)
        self._carriers = {
            parameter.name: self._carrier(parameter, types) for parameter in parameters
        }
        self._result = _carrier(types.get("return", Any), f"task {task!r}: its result")

    def _carrier(self, parameter: inspect.Parameter, types: Mapping[str, Any]) -> Carrier:
        what = f"task {self._task!r}: parameter {parameter.name!r}"
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{what}: arguments are stored by name, so each needs a parameter")
        if parameter.name not in types:
            raise TypeError(f"{what} has no type")
        if types[parameter.name] is ActiveJob:
            raise TypeError(f"{what}: the job is the first parameter, or none")
        return _carrier(types[parameter.name], what)

    def encode(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> JsonObject:
        """The payload of a call; defaults are left to whoever runs it.

        Raises:
            TypeError: The function does not take these arguments.
            InvalidJob: An argument is not of its type; the message says which.
        """
        try:
            given = self._signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"task {self._task!r}: {error}") from None
        payload: JsonObject = {}
        for name, value in given.items():
            try:
                payload[name] = self._carriers[name].encode(value)
                self._carriers[name].decode(payload[name])
            except Misfit as error:
                raise InvalidJob(f"task {self._task!r}: argument {name!r}: {error}") from None
        return payload

    def decode(self, payload: Json) -> inspect.BoundArguments:
        """The arguments in a payload, defaults applied; nothing at all counts as no arguments.

        Raises `InvalidJob`: the message says which argument, what was expected, and what came.
        """
        wanted = self._signature.parameters
        if payload is None:
            payload = {}
        if not isinstance(payload, dict):
            raise InvalidJob(
                f"task {self._task!r}: its arguments are a JSON object, not {shown(payload)}"
            )
        if unknown := payload.keys() - wanted.keys():
            raise InvalidJob(
                f"task {self._task!r}: unknown argument {shown(min(unknown))}; its arguments are: "
                + (", ".join(wanted) or "none")
            )
        arguments: dict[str, Any] = {}
        for name, parameter in wanted.items():
            if name in payload:
                try:
                    arguments[name] = self._carriers[name].decode(payload[name])
                except Misfit as error:
                    raise InvalidJob(f"task {self._task!r}: argument {name!r}: {error}") from None
            elif parameter.default is parameter.empty:
                raise InvalidJob(f"task {self._task!r}: argument {name!r} is missing")
        bound = inspect.BoundArguments(self._signature, cast(Any, arguments))
        bound.apply_defaults()
        return bound

    def encode_result(self, value: object) -> Json:
        """A result as JSON. Raises `InvalidJob`."""
        try:
            return self._result.encode(value)
        except Misfit as error:
            raise InvalidJob(f"task {self._task!r}: its result: {error}") from None

    def decode_result(self, value: Json) -> Any:
        """The result that was stored so. Raises `Misfit`."""
        return self._result.decode(value)


def _carrier(annotation: Any, what: str) -> Carrier:
    try:
        return carrier(annotation)
    except (TypeError, ImportError, ValueError) as error:
        reason = str(error).rpartition("\n")[2]
        raise TypeError(f"{what} cannot be carried as JSON: {reason}") from error


def _types_of(function: Callable[..., object], task: str) -> dict[str, Any]:
    """The annotations of a function as types.

    `Json` refers to itself, which nothing but a type checker can follow: it is any value.
    """
    plain = inspect.unwrap(function)
    names: dict[str, Any] = getattr(plain, "__globals__", {})
    any_json = {name: Any for name, value in names.items() if value is Json}
    scope = {"Json": Any, "Mapping": Mapping, "Sequence": Sequence, **names, **any_json}
    try:
        return get_type_hints(plain, scope, include_extras=True)
    except NameError as error:
        raise TypeError(
            f"task {task!r}: a type of its signature is not known when it runs: {error}; import it "
            "outside of TYPE_CHECKING, and define it in the module"
        ) from None
