"""Rewrite the marked figures of all pages, and the pictures whose data has changed."""

from benchmarks.figures.pages import PAGES, filled
from benchmarks.figures.pictures import PICTURES

if __name__ == "__main__":
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            page.write_text(new, encoding="utf-8")
            print(f"{page.name}: figures rewritten")
    for picture in PICTURES:
        if not picture.is_current():
            picture.draw()
            print(f"{picture.path.name}: drawn")
