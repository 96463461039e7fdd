"""Training of Hallo-Live on top of `hallo_live_core`: see README.md in this folder."""
