"""A command that is made from the options of its verb."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, get_args, get_type_hints

import typer

from caloforge.errors import UsageError
from caloforge.options import Option, Options, options_of

__all__ = ["with_options"]


def with_options(
    cls: type[Options], parameter_name: str = "options"
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator of a command: a parameter of it becomes one option of the command line for each field of the class.

    Args:
        cls: the options of the verb.
        parameter_name: of the parameter that takes them.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        names = [name for name, _, _ in options_of(cls)]

        @wraps(function)
        def command(**given: Any) -> None:
            settings = {name: given.pop(name) for name in names}
            given[parameter_name] = cls(**{name: _words(cls, name, value) for name, value in settings.items()})
            function(**given)

        parameters = []
        for parameter in inspect.signature(function).parameters.values():
            if parameter.name == parameter_name:
                parameters += [_parameter(cls, *option) for option in options_of(cls)]
            else:
                parameters.append(
                    parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
                )
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def _words(cls: type[Options], name: str, value: Any) -> Any:
    """The words of a list that may be written with commas."""
    kind, option = {key: (kind, option) for key, kind, option in options_of(cls)}[name]
    if not option.commas:
        return value
    if value is None:
        return getattr(cls, name)
    words = [word.strip() for text in value for word in text.split(",") if word.strip()]
    try:
        return tuple(get_args(kind)[0](word) for word in words)
    except ValueError:
        flag = option.flag or f"--{name.replace('_', '-')}"
        numbers = "whole numbers such as 500,1000,2000" if get_args(kind)[0] is int else "numbers such as 10,20.5,50"
        raise UsageError(f"{flag} is '{','.join(words)}', expected {numbers}") from None


def _parameter(cls: type[Options], name: str, kind: Any, option: Option) -> inspect.Parameter:
    default = getattr(cls, name)
    settings: dict[str, Any] = {"help": option.help} | ({"metavar": option.metavar} if option.metavar else {})
    if isinstance(default, tuple):
        kind, default = list[str] | None, None
    elif option.least is not None or option.most is not None:
        assert {int, float} & {kind, *get_args(kind)}, f"the option '{name}' has a limit and is no number"
        settings |= {"min": option.least, "max": option.most}
    flag = option.flag or f"--{name.replace('_', '-')}"
    if kind is bool and default is True:
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    made = typer.Option(flag, **settings)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, made])
