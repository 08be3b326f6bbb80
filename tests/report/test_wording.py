"""Sentences of tables and pages."""

import pytest

from fedserdiff.report.wording import begin_sentence, data_in_words


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"name": "phantom", "stream": "patients"}, "Phantom data of the stream patients"),
        ({"name": "own", "stream": None}, "Own data"),
        ({"name": "federation.toml"}, "federation.toml data"),
    ],
)
def test_a_sentence_about_data_has_a_capital_but_for_the_name_of_a_file(data: dict[str, str], told: str) -> None:
    assert begin_sentence(data_in_words(data)) == told
