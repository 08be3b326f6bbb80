"""Colours of regions, the same in every picture."""

REGION_COLOURS = ("#e66101", "#5e3c99", "#ffd92f", "#66ffff", "#660000", "#ccff99", "#009999", "#cc00ff")
"""Colours by a region's position among the regions. From the fourth on, each is the colour farthest from those before
it. The distance is CIE 1976, the smallest over normal sight and Machado et al.'s protanopia, deuteranopia and
tritanopia (our choice); any two colours are at least 30 apart."""
