"""YAML read as strings, lists and mappings; numbers stay as they are written.

Nothing else is constructed, whatever the tags are. Aliases and deep nesting are refused because they are more work than
their length suggests, and keys that occur twice because they are ambiguous.
"""

from typing import Any

from registry.errors import InvalidRequest

MOST_BYTES = 2**20
MOST_NESTED = 12
MOST_EVENTS = 2**14
PLAIN = ("str", "int", "float", "bool", "null", "timestamp", "merge", "seq", "map")
TAGS = {f"tag:yaml.org,2002:{name}" for name in PLAIN}
BROKEN = (ValueError, LookupError, ArithmeticError, AttributeError, TypeError, RecursionError)


def read_yaml(text: str, name: str) -> dict[str, Any]:
    """Return the mapping of a YAML document.

    Args:
        text: At most `MOST_BYTES`.
        name: Of the file, for messages.

    Returns:
        Strings, lists and mappings; None for null.

    Raises:
        InvalidRequest: The text is malformed, not a mapping, too deep or too long.
    """
    import yaml  # the person's own file, and only nodes are made of it

    try:
        nested = 0
        for count, event in enumerate(yaml.parse(text, yaml.SafeLoader)):  # up to the first error
            nested += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                raise InvalidRequest(f"{name} has an alias, *{event.anchor}; write out what it stands for.")
            if nested > MOST_NESTED or count > MOST_EVENTS:
                raise InvalidRequest(f"{name} is too deep or too long for a merge.")
        table = _read(yaml.compose(text, yaml.SafeLoader), name)
    except InvalidRequest:
        raise
    except (yaml.YAMLError, *BROKEN) as why:
        mark = getattr(why, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        raise InvalidRequest(f"{name} is not YAML that can be read{where}.") from why
    if not isinstance(table, dict):
        raise InvalidRequest(f"{name} is not a mapping, as a mergekit configuration must be.")
    return table


def _read(node: Any, name: str) -> Any:
    if node is None:
        return None
    if node.tag not in TAGS:
        raise InvalidRequest(f"{name} has the tag {node.tag[:60]} at line {node.start_mark.line + 1}; remove it.")
    if node.id == "mapping":
        table: dict[str, Any] = {}
        for key, value in node.value:
            word = _read(key, name)
            if not isinstance(word, str) or key.tag.endswith(":merge"):
                raise InvalidRequest(f"{name} has a key that is not a word, at line {key.start_mark.line + 1}.")
            if word in table:
                raise InvalidRequest(f"{name} has {word[:60]!r} twice, the second at line {key.start_mark.line + 1}.")
            table[word] = _read(value, name)
        return table
    if node.id == "sequence":
        return [_read(value, name) for value in node.value]
    return None if node.tag.endswith(":null") else str(node.value)
