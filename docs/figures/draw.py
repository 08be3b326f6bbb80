"""Draw the figures of the documentation into ``docs/images``: ``python docs/figures/draw.py``."""

import sys
from pathlib import Path

from error_map import draw_life
from house import draw_house, read_house
from r_matrix import draw_r
from stream import draw_stream, read_scores
from stream import listing as listing_of_scores
from wire_records import draw_records, listing, read_records

IMAGES = Path(__file__).resolve().parents[1] / "images"


def main() -> None:
    """Draw every figure. If a folder is given, also write PNGs into it, to look at."""
    house, records, scores = read_house(), read_records(), read_scores()
    pages = {
        "house": (draw_house(house), house.listing()),
        "wire-records": (draw_records(records), listing(records)),
        "stream": (draw_stream(scores), listing_of_scores(scores)),
        "error-map": (draw_life(), "schematic"),
        "r-matrix": (draw_r(), "schematic"),
    }
    for name, (page, description) in pages.items():
        page.save(IMAGES / f"{name}.svg", description)
        for folder in sys.argv[1:]:
            page.save_png(Path(folder) / f"{name}.png")


if __name__ == "__main__":
    main()
