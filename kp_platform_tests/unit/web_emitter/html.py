"""Reading a page in a test.

Belongs here: markup as a list of tags and the text between. Does not belong here: assertions.
"""

from html.parser import HTMLParser

OUR_SCRIPTS: list[list[tuple[str, str | None]]] = [
    [("src", f"/static/vendor/{name}.min.js"), ("defer", None)] for name in ("htmx", "hx-sse")
]


class Tags(HTMLParser):
    """The tags of a page with their attributes, the text between them, and each text of a tag. The
    two vendored scripts of every page are omitted."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self._texts: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "script" and attributes in OUR_SCRIPTS:
            return
        self.tags.append((tag, dict(attributes)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass  # void elements are never closed

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open:
            self._texts.append((self._open[-1], data))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def texts(self, tag: str) -> list[str]:
        """The texts directly in the tags of this name."""
        return [text for name, text in self._texts if name == tag]
