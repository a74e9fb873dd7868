"""Conditions in CEL over DICOM keywords and association facts.

The Rust-backed ``common-expression-language`` evaluates them; how it compares
with the alternative is in ``docs/configuration.md``. It gives a fraction of the
library's own type checking, so names, functions and types are checked here when
a condition is compiled: a mistake is found at load, not at the first object.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cel

from gateway.route.keywords import Value, absent, is_list, kind_of, refusal

FUNCTIONS = frozenset(
    {"size", "contains", "startsWith", "endsWith", "matches"}
    | {"int", "uint", "double", "string", "bytes", "timestamp", "duration"}
)
"""Functions a condition may call, besides operators and macros."""

_POSITION = re.compile(r"<input>:(\d+):(\d+): (?:Syntax error: )?([^\n]*)")
_MACRO_VARIABLE = re.compile(
    r"\.\s*(?:all|exists|exists_one|map|filter)\s*\(\s*([A-Za-z_]\w*)\s*,"
)
_STRING = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'')
_MAX_CHARACTERS = 10_000
_EVALUATION_ERRORS = (
    ArithmeticError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
_SAMPLES: Mapping[str, Value] = {"text": "1", "int": 1, "double": 1.0}


class ConditionError(Exception):
    """A condition is wrong, or cannot be decided for the attributes given.

    Attributes
    ----------
    line, column
        Where in the condition's text, from 1.
    """

    def __init__(self, message: str, *, line: int = 1, column: int = 1) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


@dataclass(frozen=True)
class Condition:
    """A compiled condition; make one with `compile_condition`."""

    text: str
    keywords: frozenset[str]
    """The DICOM keywords and association facts it reads."""
    program: cel.Program

    def evaluate(self, attributes: Mapping[str, Value]) -> bool:
        """Decide the condition for the attributes of one object.

        Parameters
        ----------
        attributes
            By keyword; a keyword not in it counts as absent.

        Raises
        ------
        ConditionError
            It cannot be decided: a number it compares is absent, a list is
            shorter than an index, or the result is not a boolean. Callers hold
            the object: what cannot be decided does not leave.
        """
        context = {name: attributes.get(name, absent(name)) for name in self.keywords}
        try:
            result = self.program.execute(context)
        except _EVALUATION_ERRORS as error:
            missing = sorted(n for n, value in context.items() if value in (None, []))
            why = f"{', '.join(missing)} absent" if missing else _first_line(error)
            raise ConditionError(f"cannot be decided: {why}") from error
        if not isinstance(result, bool):
            raise ConditionError(
                f"gives {type(result).__name__}, not true or false; compare with"
                " something"
            )
        return result


def compile_condition(
    text: str, why_not: Callable[[str], str | None] = refusal
) -> Condition:
    """Compile a condition and check every name, function and type in it.

    Parameters
    ----------
    text
        In CEL.
    why_not
        Returns why it may not name something; None where it may.

    Raises
    ------
    ConditionError
        With line and column in ``text``, and the remedy where one is known.
    """
    if len(text) > _MAX_CHARACTERS:
        raise ConditionError(f"longer than {_MAX_CHARACTERS} characters")
    try:
        program = cel.compile(text)
    except ValueError as error:
        raise _syntax_error(text, str(error)) from error
    bound = set(_MACRO_VARIABLE.findall(_without_strings(text)))
    names = set(program.variables()) - bound
    for name in sorted(names):
        if (why := why_not(name)) is not None:
            line, column = _place_of(name, text)
            raise ConditionError(why, line=line, column=column)
    _check_functions(program, text)
    condition = Condition(text=text, keywords=frozenset(names), program=program)
    _check_types(condition)
    return condition


def _syntax_error(text: str, message: str) -> ConditionError:
    found = _POSITION.search(message)
    if found is None:
        return ConditionError(_first_line(message))
    line, column, why = int(found.group(1)), int(found.group(2)), found.group(3)
    if re.search(r"(?<![=!<>])=(?!=)", _without_strings(text)):
        why += "; use == to compare"
    return ConditionError(why, line=line, column=column)


def _check_functions(program: cel.Program, text: str) -> None:
    for name in program.functions():
        if re.fullmatch(r"[A-Za-z]\w*", name) and name not in FUNCTIONS:
            line, column = _place_of(name, text)
            known = ", ".join(sorted(FUNCTIONS))
            raise ConditionError(
                f"there is no function {name}; there are {known}",
                line=line,
                column=column,
            )


def _check_types(condition: Condition) -> None:
    """Run it once on values of the right types: a type error is a mistake."""
    context = {name: _sample(name) for name in condition.keywords}
    try:
        result = condition.program.execute(context)
    except TypeError as error:
        raise ConditionError(f"{_first_line(error)}{_hint(condition)}") from error
    except RuntimeError as error:
        if "regex" not in str(error) and "Undefined" not in str(error):
            return
        raise ConditionError(f"{_first_line(error)}{_hint(condition)}") from error
    except (ArithmeticError, LookupError, ValueError):
        return  # depends on the values: decided, or held, at run time
    if not isinstance(result, bool):
        raise ConditionError(
            f"gives {type(result).__name__}, not true or false; compare with something"
        )


def _hint(condition: Condition) -> str:
    lists = sorted(name for name in condition.keywords if is_list(name))
    if not lists:
        return ""
    return f'; {lists[0]} is a list: write "X" in {lists[0]}, or {lists[0]}[0]'


def _sample(name: str) -> Value:
    value = _SAMPLES[kind_of(name) or "text"]
    return [value] * 16 if is_list(name) else value  # type: ignore[list-item]


def _place_of(name: str, text: str) -> tuple[int, int]:
    found = re.search(rf"\b{re.escape(name)}\b", _without_strings(text))
    start = found.start() if found is not None else 0
    before = text[:start]
    return before.count("\n") + 1, start - (before.rfind("\n") + 1) + 1


def _without_strings(text: str) -> str:
    return _STRING.sub(lambda found: " " * len(found.group()), text)


def _first_line(error: object) -> str:
    text = str(error).split("\n", 1)[0]
    return text.split(". CEL does not", 1)[0].split(". Check that", 1)[0]
