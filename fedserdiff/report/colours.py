"""Colours of regions, the same in every picture."""

REGION_COLOURS = ("#e66101", "#5e3c99", "#ffd92f", "#66ffff", "#660000", "#ccff99", "#009999", "#cc00ff")
"""By a region's place among the regions. From the fourth on, each is the one that lies farthest from those before it
(CIE 1976, the smallest of the distances that normal sight and Machado et al.'s protanopia, deuteranopia and tritanopia
see; our choice): any two are at least 30 apart."""
