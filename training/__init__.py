"""Training of Hallo-Live on top of `hallo_live_core`. Nothing is here yet."""
