"""Objects by their import path, "module:attribute", and the path of an object."""

import sys
from importlib import import_module
from typing import Any


def load_attribute(setting: str, path: str) -> Any:
    """The object that "module:attribute" names; ValueError, which names the setting, where it cannot be imported."""
    module, _, attribute = path.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{setting} {path!r} cannot be imported ({error}): name a module:attribute") from None


def path_of(setting: str, value: Any) -> str:
    """The import path of an object that some module has under a name of its own; ValueError where none has."""
    for module, namespace in list(sys.modules.items()):
        if namespace is not None and module != "__main__":
            for attribute, found in list(vars(namespace).items()):
                if found is value:
                    return f"{module}:{attribute}"
    raise ValueError(f"{setting} {value!r} cannot be written down: give it a name of its own in a module")
