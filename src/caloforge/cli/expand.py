"""A command that is made from the options of its verb."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from types import NoneType
from typing import Annotated, Any, get_args, get_type_hints

import typer

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
    option = {key: option for key, _, option in options_of(cls)}[name]
    if not option.commas:
        return value
    return tuple(word.strip() for text in value or () for word in text.split(",") if word.strip())


def _parameter(cls: type[Options], name: str, kind: Any, option: Option) -> inspect.Parameter:
    default = getattr(cls, name)
    flag = option.flag or f"--{name.replace('_', '-')}"
    if kind is bool:
        made = typer.Option(flag, help=option.help)
    elif isinstance(default, tuple):
        made, kind, default = typer.Option(flag, help=option.help), list[str] | None, None
    else:
        limits = {} if option.least is None or NoneType is kind else {"min": option.least}
        assert not limits or int in (kind, *get_args(kind)), f"the option '{name}' has a limit and is no number"
        made = typer.Option(flag, help=option.help, **limits)  # type: ignore[arg-type] # of a number
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, made])
