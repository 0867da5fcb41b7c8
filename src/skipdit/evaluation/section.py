"""A part of a Markdown page that a program writes, between <!-- NAME --> and <!-- end -->."""

from pathlib import Path

from skipdit.files import write_text


def write_section(page: Path, name: str, text: str) -> None:
    """Replace what is between the markers; the page stays as it is otherwise.

    Raises: ValueError where the page does not have the first marker once, and the second behind it.
    """
    begin, end = f"<!-- {name} -->", "<!-- end -->"
    before, *after = page.read_text().split(begin)
    if len(after) != 1 or end not in after[0]:
        raise ValueError(f"{page} must have one line {begin} and, below it, a line {end}: add them where the text goes")
    write_text(page, f"{before}{begin}\n{text}\n{end}{after[0].partition(end)[2]}")
