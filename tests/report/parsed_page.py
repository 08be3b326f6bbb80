"""A report as a reader sees it, for tests."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """The page as a reader meets it: tables by class, figures, texts and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.pictures: list[dict[str, str]] = []
        self.captions: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self._rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open, "elements left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.tags.append(tag)
        self.references += [values[key] for key in ("src", "href", "srcset", "data", "action") if key in values]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            name = values.get("class", f"study {len(self.tables)}")
            self._rows = self.tables[f"{name}{' 2' if name in self.tables else ''}"] = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
        elif tag == "img":
            self.pictures.append(values)
        elif tag == "figcaption":
            self.captions.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if "td" in self._open or "th" in self._open:
            self._rows[-1][-1] += data
        if "figcaption" in self._open:
            self.captions[-1] += data

    def row(self, table: str, name: str) -> list[str]:
        """The cells of a method's row, without its name."""
        (found,) = [row for row in self.tables[table] if row[0].removesuffix(" breaks privacy") == name]
        return found[1:]
