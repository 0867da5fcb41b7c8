"""Objects by their import path, "module:attribute", and the path of an object."""

import sys
from importlib import import_module
from inspect import signature
from typing import Any


def load_attribute(setting: str, path: str) -> Any:
    """The object that "module:attribute" names; ValueError, which names the setting, where it cannot be imported."""
    module, _, attribute = path.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ValueError(f"{setting} {path!r} cannot be imported ({error}): name a module:attribute") from None


def load_function(setting: str, given: Any, kind: type, *, unlike: tuple[type, ...] = ()) -> Any:
    """What a setting gives, itself or by its import path: an object of `kind`, or a function of three arguments.

    Raises: ValueError for anything else, as a class or an object `unlike` a function, though it can be called.
    """
    found = load_attribute(setting, given) if isinstance(given, str) else given
    if isinstance(found, kind):
        return found
    try:
        signature(found).bind(0, 0, 0)
        is_function = not isinstance(found, (type, *unlike))
    except (TypeError, ValueError):  # builtins may have no signature
        is_function = False
    if not is_function:
        raise ValueError(f"{setting} is {given!r}: give a function of three arguments, a {kind.__name__}, or its path")
    return found


def path_of(setting: str, value: Any) -> str:
    """The import path of an object that some module has under a name of its own; ValueError where none has."""
    for module, namespace in list(sys.modules.items()):
        if namespace is not None and module != "__main__":
            for attribute, found in list(vars(namespace).items()):
                if found is value:
                    return f"{module}:{attribute}"
    raise ValueError(f"{setting} {value!r} cannot be written down: give it a name of its own in a module")
