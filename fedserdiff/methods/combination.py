"""Combinations of methods whose terms add up to one loss: ``ser-diff+ewc`` replays error maps and holds weights."""

from collections.abc import Sequence

from fedserdiff.errors import ConfigError
from fedserdiff.methods.method import Method, MethodSettings

SIGN = "+"
"""Separator of the names."""


def combined(name: str, methods: Sequence[Method]) -> Method:
    """Return a method whose loss is that of the first of several methods, plus the terms that the others add to L_seg.

    The first method determines which sites train in which stage, on which cases, and with which adapter. Every method
    keeps, sends and requests the same records as by itself. The settings are those of all methods.

    Raises
    ------
    ConfigError
        If one of the others adds no term, or if two report the same term, hand over the same record, or declare a
        setting differently.
    """
    first, *others = methods
    for place, other in enumerate(others, 1):
        added = set(other.terms) - {"segmentation"}
        if not added or other.knows_origin or other.changes_batch:
            raise ConfigError(f"method {name}: {other.name} is more than loss terms: put it first, or use it alone")
        for one in methods[:place]:
            for what, both in (("term", added & set(one.terms)), ("record", {one.hands_over} & {other.hands_over})):
                if both - {""}:
                    raise ConfigError(f"method {name}: {one.name} and {other.name} share a {what}: {min(both)}")
    if not first.federated:
        raise ConfigError(f"method {name}: {first.name} has no earlier hospitals to which terms could refer")
    return Method(
        name,
        "; ".join(method.summary for method in methods),
        strategy="",  # each part has its own halves
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
    """Return a class with the settings of all methods, a subclass of each method's settings class."""
    own = dict.fromkeys(method.settings for method in methods)
    for one in own:
        for other in own:
            shared = set(one.model_fields) & set(other.model_fields)
            if different := sorted(f for f in shared if repr(one.model_fields[f]) != repr(other.model_fields[f])):
                raise ConfigError(f"method {name}: two of its methods declare the setting {different[0]} differently")
    bases = [one for one in own if not any(other is not one and issubclass(other, one) for other in own)]
    return type(f"Settings of {name}", tuple(bases), {"__module__": __name__, "__doc__": f"Settings of {name}."})
