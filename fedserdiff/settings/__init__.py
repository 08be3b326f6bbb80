"""An experiment's settings: each is declared once, in its group's class, and known everywhere from there."""
