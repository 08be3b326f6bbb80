"""Which methods a method is compared with first."""

from dataclasses import replace

import pytest

from fedserdiff.methods import METHODS, get_method


@pytest.mark.parametrize(
    ("name", "group"),
    [("local", "alone"), ("fine-tune", "in-turn"), ("ser-diff+ewc", "in-turn"), ("rehearsal", "raw-data"),
     ("pooled", "raw-data")],
)  # fmt: skip
def test_a_method_is_of_the_group_that_its_declaration_puts_it_in(name: str, group: str) -> None:
    assert get_method(name).group == group


def test_a_federation_of_all_from_the_start_is_a_group_of_its_own_unless_it_breaks_privacy() -> None:
    together = replace(METHODS["fine-tune"], arrival="together")
    assert together.group == "together"
    assert replace(together, breaks_privacy=True).group == "raw-data"
    assert replace(together, federated=False).group == "alone"
