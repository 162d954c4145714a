"""params.yaml by the rules that DVC reads and writes it by: YAML 1.2, where `off` is a word and 5e-05 a number.

PyYAML knows YAML 1.1, in which `off` is false and 5e-05 a word, and lets a second mapping of one name replace the first.
"""

import re
from typing import Any

import yaml

try:  # libyaml's takes 1 ms where Python's takes 20
    from yaml import CSafeLoader as SafeLoader
except ImportError:
    from yaml import SafeLoader  # type: ignore[assignment]

__all__ = ["parse"]

BOOL, INT, FLOAT, MERGE = (f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float", "merge"))
FLOATS = re.compile(
    r"""^(?:[-+]?(?:\d[\d_]*)?\.?\d[\d_]*(?:[eE][-+]?\d+)|[-+]?\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|[-+]?\.\d[\d_]*
    |[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)


class _Loader(SafeLoader):
    """Booleans and numbers as YAML 1.2 has them; a key twice is an error."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag not in (BOOL, INT, FLOAT)]
    for first, known in SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    INT, re.compile(r"^(?:[-+]?\d[\d_]*|0o[0-7]+|0x[\da-fA-F]+)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(FLOAT, FLOATS, list("-+0123456789."))


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    return int(text, 0 if text[:2] in ("0o", "0x") else 10)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
            name = loader.construct_object(key)
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {name!r} is there twice", key.start_mark
                )
            seen.add(name)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(INT, _integer)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def parse(text: str) -> Any:
    """What a YAML document holds.

    Raises:
        yaml.YAMLError: it is none, or a mapping has a key twice.
    """
    return yaml.load(text, _Loader)  # noqa: S506  # a SafeLoader
