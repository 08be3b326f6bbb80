"""Plain English, as far as a machine can tell: ``python tests/docs/prose.py FILE…`` lists what to rewrite.

Markdown pages are checked for long sentences, for words not to use, for headings and for length; Python files for words
not to use in docstrings' first paragraphs and in all other text, such as help and error messages.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

MOST_WORDS = 35
"""The most words that a sentence may have."""

MOST_LINES = 250
"""The most lines that a page may have."""

UNWANTED = (
    *("whoever", "whomever", "whosoever", "wherever", "whatever", "whichever"),
    *("thereby", "therein", "thereof", "therefrom", "thereto", "thereupon", "therewith"),
    *("whereby", "wherein", "whereof", "whereupon", "hereby", "herein", "herewith"),
    *("hence", "whence", "thence", "henceforth", "hitherto", "heretofore", "forthwith"),
    *("anew", "beforehand", "lest", "as ever", "but for", "by the same means", "such as are", "a poor one"),
    *("that is theirs", "of one's own", "stands for", "stand for", "tells of", "tell of"),
    *("(?:is|are|was|were|be|been) (?:had|told(?! (?:apart|to)))", "to be had"),
    *("simply", "just", "powerful", "seamless", "seamlessly"),
)
"""Words and phrases not to use, as regular expressions that match between words, in any case."""

UNWANTED_STARTS = (
    "Nor",
    "Of",
    "So (?:does|do|did|is|are|was|were|has|have|had|can|will)",
    "What leaves is",
    r"[A-Z]\w+(?<!e)ed (?:is|are|was|were)",  # "Refused are", but not "Seed is"
)
"""Beginnings of sentences not to use, as case-sensitive regular expressions."""

_WORDS = re.compile(rf"(?<![\w-])(?:{'|'.join(UNWANTED)})(?![\w-])".replace(" ", r"\s+"), re.IGNORECASE)
_STARTS = re.compile(rf"[(\[\"'“‘]*(?:{'|'.join(UNWANTED_STARTS)})(?![\w-])".replace(" ", r"\s+"))
_ABBREVIATIONS = ("e.g.", "i.e.", "cf.", "al.", "vs.", "Fig.", "Sec.", "No.", "approx.", "Dr.", "St.")
_END = re.compile(r"[.!?…][)\]\"'”’*_]*\s+(?=[(\[\"'“‘*_]*(?:[A-ZÀ-Þ\d\ue000]|[a-z]+[A-Z]))")
_FIGURES = re.compile(r"\([^()]*\d[^()]*\)|\[[^\[\]]*\d[^\[\]]*\]")
_CODE = re.compile(r"\ue000(\d+)\ue001")
_QUESTION = re.compile(r"(?:What|Why|Which|Where|When|Who|Whose|How(?! to\b))(?![\w-])")
_GERUND = re.compile(r"\w*[aeiouy]\w*ing (?:a|an|the|your|its|their|each|every|all)\b")
_OF_PROSE = re.compile(r"\{(?:note|tip|hint|warning|important|caution|attention|admonition|seealso|dropdown)\}")


@dataclass(frozen=True)
class Text:
    """A piece of a page: its first line, what it is, and its text, in which inline code is ``\\ue000NUMBER\\ue001``."""

    line: int
    kind: str  # "prose", "heading" or "cell"
    text: str
    codes: tuple[str, ...] = ()

    def plain(self, part: str) -> str:
        """Return part of the text as its author wrote it, in one line."""
        return " ".join(_CODE.sub(lambda code: f"`{self.codes[int(code[1])]}`", part).split())


@dataclass(frozen=True)
class Finding:
    """What to rewrite: the file's line, what is wrong, and where."""

    line: int
    wrong: str
    text: str

    def __str__(self) -> str:
        return f"{self.line}: {self.wrong}: {self.text}"


def texts(markdown: str, first: int = 1) -> Iterator[Text]:
    """Yield the paragraphs, list items, headings and table cells of a page, without code blocks and link targets."""
    kind = "prose"
    for token in MarkdownIt("commonmark").enable("table").parse(markdown):
        line = first + (token.map[0] if token.map else 0)
        if token.type in ("heading_open", "th_open", "td_open"):
            kind = "heading" if token.type == "heading_open" else "cell"
        elif token.type in ("heading_close", "th_close", "td_close"):
            kind = "prose"
        elif token.type == "fence" and _OF_PROSE.match(token.info.strip()):
            yield from texts(token.content, line + 1)
        elif token.type == "inline":
            yield from _inline(token, line, kind)


def _inline(token: Token, line: int, kind: str) -> Iterator[Text]:
    parts: list[str] = []
    codes: list[str] = []
    for child in token.children or ():
        if child.type == "text":
            parts.append(child.content)
        elif child.type in ("softbreak", "hardbreak"):
            parts.append("\n")
        elif child.type == "code_inline":
            parts.append(f"\ue000{len(codes)}\ue001")
            codes.append(child.content)
        elif child.type == "image":
            yield Text(line + "".join(parts).count("\n"), "prose", child.content)
    text = re.sub(r"^:::.*$", "", "".join(parts), flags=re.MULTILINE)  # a directive's fence
    if text.strip():
        yield Text(line, kind, text, tuple(codes))


def sentences(text: Text) -> Iterator[tuple[int, str]]:
    """Yield each sentence of a piece of prose with its line."""
    start = 0
    ends = [end.end() for end in _END.finditer(text.text) if not _is_abbreviation(text.text[: end.start() + 1])]
    for end in [*ends, len(text.text)]:
        part = text.text[start:end]
        if part.strip():
            lead = len(part) - len(part.lstrip())
            yield text.line + text.text[: start + lead].count("\n"), part.strip()
        start = end


def _is_abbreviation(before: str) -> bool:
    last = before.split()[-1].lstrip("([\"'“‘")
    return last in _ABBREVIATIONS or re.fullmatch(r"[A-Z]\.", last) is not None


def word_count(sentence: str) -> int:
    """Return the number of words; inline code is one, brackets with a figure in them are none, signs are none."""
    return sum(any(sign.isalnum() for sign in word) for word in _FIGURES.sub(" ", _CODE.sub("code", sentence)).split())


def unwanted(sentence: str) -> list[str]:
    """Return the words not to use that a sentence has."""
    found = [" ".join(match[0].split()) for match in _WORDS.finditer(sentence)]
    if start := _STARTS.match(sentence):
        found.append(f"{' '.join(start[0].split())} …")
    if sentence.count("—") > 2:
        found.append("— … — … —")
    return found


def about_heading(heading: str) -> str | None:
    """Return what is wrong with a heading, which is a noun, a question or a task ("How to …", "Add a method")."""
    if heading.endswith((".", ":", ";", ",")):
        return f"heading ends in {heading[-1]!r}"
    if _QUESTION.match(heading) and not re.search(r"[?…](?: \(.*\))?$", heading):
        return "heading asks without a question mark"
    if _GERUND.match(heading):
        return "heading begins with a verb in -ing"
    return None


def check_page(markdown: str, *, notebook: bool = False) -> list[Finding]:
    """Return what to rewrite in a page; a notebook may be long, with long sentences and headings of any kind."""
    found = []
    lines = len(markdown.splitlines())
    if lines > MOST_LINES and not notebook:
        found.append(Finding(lines, f"page has more than {MOST_LINES} lines", f"{lines} lines"))
    for text in texts(markdown):
        if text.kind == "heading" and not notebook and (wrong := about_heading(text.plain(text.text))):
            found.append(Finding(text.line, wrong, text.plain(text.text)))
        for line, sentence in sentences(text):
            count = word_count(sentence)
            if text.kind == "prose" and count > MOST_WORDS and not notebook:
                found.append(Finding(line, f"{count} words, more than {MOST_WORDS}", text.plain(sentence)))
            found += [Finding(line, f'"{word}"', text.plain(sentence)) for word in unwanted(sentence)]
    return found


def check_code(source: str) -> list[Finding]:
    """Return what to rewrite in a Python file: words not to use in first paragraphs of docstrings and in other text."""
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    within = {id(value) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for value in node.values}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(v.value) if isinstance(v, ast.Constant) else "\ue0000\ue001" for v in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in within:
            text = node.value.split("\n\n")[0] if id(node) in docstrings else node.value
        else:
            continue
        if " " not in text.strip():  # a name
            continue
        code = [Text(node.lineno, "prose", re.sub(r"`[^`]*`", "\ue0000\ue001", text), ("…",))]
        for one in code:
            for line, sentence in sentences(one):
                found += [Finding(line, f'"{word}"', one.plain(sentence)) for word in unwanted(sentence)]
    return sorted(found, key=lambda one: one.line)


def newest(changelog: str) -> str:
    """Return a changelog up to its second version: what was written of earlier ones stays."""
    return "\n## ".join(changelog.split("\n## ")[:2])


def check(path: Path) -> list[Finding]:
    """Return what to rewrite in a file of the project."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return check_code(text)
    if path.name == "CHANGELOG.md":
        return check_page(newest(text))
    return check_page(text, notebook="/docs/notebook/" in path.resolve().as_posix())


def main() -> int:
    """Print what to rewrite in the files that are named, and return how many have something."""
    bad = 0
    for name in sys.argv[1:]:
        found = check(Path(name))
        bad += bool(found)
        for one in found:
            sys.stdout.write(f"{name}:{one}\n")
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
