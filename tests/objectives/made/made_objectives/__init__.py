"""An installed package that adds objectives, as a user would write it."""
