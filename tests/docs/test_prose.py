"""Pages, docstrings, help and error messages are plain English, as far as ``prose.py`` can tell."""

from pathlib import Path

import pytest
from pages import PAGES, ROOT
from prose import Finding, check, check_code, check_page, newest, sentences, texts, word_count

PACKAGES = ("fedserdiff", "sites", "strategies", "scripts")


def listed(files: list[Path]) -> str:
    return "\n".join(f"{file.relative_to(ROOT)}:{finding}" for file in files for finding in check(file))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_is_plain(page: Path) -> None:
    assert listed([page]) == ""


@pytest.mark.parametrize("package", PACKAGES)
def test_texts_in_the_code_are_plain(package: str) -> None:
    assert listed(sorted((ROOT / package).rglob("*.py"))) == ""


def wrong(markdown: str, **options: bool) -> list[tuple[int, str]]:
    return [(finding.line, finding.wrong) for finding in check_page(markdown, **options)]


def split(markdown: str) -> list[str]:
    return [text.plain(sentence) for text in texts(markdown) for _, sentence in sentences(text)]


def test_a_sentence_of_35_words_passes_and_one_of_36_does_not() -> None:
    words = " ".join(["word"] * 34)
    assert wrong(f"Long {words}.\n") == []
    assert wrong(f"# A page\n\nShort.\nLong {words} word.\n") == [(4, "36 words, more than 35")]


@pytest.mark.parametrize(
    ("sentence", "count"),
    [
        ("Run `fedserdiff simulate --sites 3` now.", 3),
        ("See [the whole guide](../how-to/a-b-c.md#one-two).", 4),
        ("It wins 3.5 points – by far (83.4 against 79.9, seed 0).", 6),
        ("It wins (on phantoms) twice.", 5),
        ("A *very* **bold** claim [12].", 4),
    ],
)
def test_words_are_counted_as_a_reader_would(sentence: str, count: int) -> None:
    (text,) = texts(sentence)
    assert word_count(next(sentences(text))[1]) == count


def test_sentences_end_where_a_reader_stops() -> None:
    assert split("It runs. See e.g. Smith et al. (2020). `fit` follows it! Is 3.5 mm enough? nnU-Net agrees.") == [
        "It runs.",
        "See e.g. Smith et al. (2020).",
        "`fit` follows it!",
        "Is 3.5 mm enough?",
        "nnU-Net agrees.",
    ]


def test_paragraphs_and_list_items_end_a_sentence_and_code_is_none() -> None:
    page = "One\ntwo\n\n- three\n  four\n- five\n\n```bash\nsix\n```\n\n    seven\n\n![eight](nine.png)\n"
    assert split(page) == ["One two", "three four", "five", "eight"]
    assert split(":::{note}\nTen.\n:::\n") == ["Ten."]
    assert split("```{note}\nTen `a`.\n```\n\n```{toctree}\neleven\n```\n") == ["Ten `a`."]


def test_a_cell_may_be_long_and_may_not_use_any_word() -> None:
    long = " ".join(["word"] * 40)
    assert wrong(f"| a | b |\n|---|---|\n| {long} | whoever |\n") == [(3, '"whoever"')]


@pytest.mark.parametrize(
    ("sentence", "found"),
    [
        ("Do it *anew*.", ['"anew"']),
        ("All pass, But\nfor one.", ['"But for"']),
        ("This is had, simply.", ['"is had"', '"simply"']),
        ("It is fast. Nor is it slow.", ['"Nor …"']),
        ("Of these, one is left. So does it.", ['"Of …"', '"So does …"']),
        ("Refused are files.", ['"Refused are …"']),
        ("Seed is a setting, and `anew` is code; the whatever-option and adjustment stay.", []),
        ("They can be told apart, and one is told to end; it is told.", ['"is told"']),
        ("Neither this nor that. So it does. It consists of two.", []),
    ],
)
def test_words_not_to_use_are_found(sentence: str, found: list[str]) -> None:
    assert [name for _, name in wrong(sentence)] == found


@pytest.mark.parametrize(
    ("heading", "fine"),
    [
        ("Precision", True),
        ("Training on patches", True),
        ("What leaves a hospital?", True),
        ("What is shared? (`--study ablation`)", True),
        ("How to add a method", True),
        ("Add a method", True),
        ("How-to", True),
        ("Bring your own", True),
        ("It runs.", False),
        ("What leaves a hospital", False),
        ("How the method works", False),
        ("Preparing a scan", False),
    ],
)
def test_a_heading_is_a_noun_a_question_or_a_task(heading: str, fine: bool) -> None:
    assert (wrong(f"## {heading}\n") == []) == fine


def test_a_page_of_250_lines_passes_and_one_of_251_does_not() -> None:
    assert wrong("\n" * 249 + "End\n") == []
    assert wrong("\n" * 250 + "End\n") == [(251, "page has more than 250 lines")]


def test_a_notebook_may_be_long_and_may_not_use_any_word() -> None:
    long = " ".join(["Word"] * 40)
    assert wrong("\n" * 250 + f"{long} anew.\n", notebook=True) == [(251, '"anew"')]


def test_texts_in_code_are_found_in_docstrings_first_paragraphs_and_in_messages() -> None:
    source = '''"""Made anew.

Not looked at: made anew.
"""
NAME = "anew"
LABEL: str = "made " "anew"
"""Of a label, `made anew`."""
def run(file):
    raise ValueError(f"{file} is told") if file else OSError("is fine")
'''
    assert [(found.line, found.wrong) for found in check_code(source)] == [
        (1, '"anew"'), (6, '"anew"'), (7, '"Of …"'), (9, '"is told"')
    ]  # fmt: skip


def test_a_changelog_is_checked_up_to_its_second_version() -> None:
    assert newest("# Log\n\n## 2\n\nNew.\n\n## 1\n\nOld.\n") == "# Log\n\n## 2\n\nNew.\n"


def test_a_finding_says_where_what_and_the_sentence() -> None:
    assert [str(one) for one in check_page("Fine.\nMade `x`\n anew.\n")] == ['2: "anew": Made `x` anew.']
    assert str(Finding(3, "wrong", "text")) == "3: wrong: text"
