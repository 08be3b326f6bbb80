"""Methods whose terms add up to one loss, named as a list: ``ser-diff+ewc`` replays error maps and holds weights."""

from collections.abc import Sequence

from fedserdiff.errors import ConfigError
from fedserdiff.methods.method import Method, MethodSettings

SIGN = "+"
"""Stands between the names."""


def combined(name: str, methods: Sequence[Method]) -> Method:
    """Return the method whose loss is that of the first of several, plus the terms that the others add to L_seg.

    The first one says which sites train in which stage, on what cases, and through what adapter. Every one keeps,
    sends and asks for what it does by itself. The settings are those of all.

    Raises
    ------
    ConfigError
        If one of the others has nothing to add, or two would report one term, hand over one record, or declare a
        setting differently.
    """
    first, *others = methods
    for place, other in enumerate(others, 1):
        added = set(other.terms) - {"segmentation"}
        if not added or other.knows_origin or other.changes_batch:
            raise ConfigError(f"method {name}: {other.name} is more than terms of a loss: name it first, or by itself")
        for one in methods[:place]:
            for what, both in (("term", added & set(one.terms)), ("record", {one.hands_over} & {other.hands_over})):
                if both - {""}:
                    raise ConfigError(f"method {name}: {one.name} and {other.name} have one {what}: {min(both)}")
    if not first.federated:
        raise ConfigError(f"method {name}: {first.name} has no past that terms could be of")
    return Method(
        name,
        "; ".join(method.summary for method in methods),
        strategy="",  # halves are the parts'
        objective="",
        settings=_settings(name, methods),
        terms=tuple(dict.fromkeys(term for method in methods for term in method.terms)),
        breaks_privacy=any(method.breaks_privacy for method in methods),
        knows_origin=first.knows_origin,
        arrival=first.arrival,
        aggregation=first.aggregation,
        inertia=first.inertia,
        combines=tuple(methods),
    )


def _settings(name: str, methods: Sequence[Method]) -> type[MethodSettings]:
    """Return a class of the settings of all: an instance of each one's own class."""
    own = dict.fromkeys(method.settings for method in methods)
    for one in own:
        for other in own:
            shared = set(one.model_fields) & set(other.model_fields)
            if different := sorted(f for f in shared if repr(one.model_fields[f]) != repr(other.model_fields[f])):
                raise ConfigError(f"method {name}: two of its methods declare the setting {different[0]} differently")
    bases = [one for one in own if not any(other is not one and issubclass(other, one) for other in own)]
    return type(f"Settings of {name}", tuple(bases), {"__module__": __name__, "__doc__": f"Settings of {name}."})
