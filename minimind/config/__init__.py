"""The configuration as a whole: its schema, the rules across groups, and what is built from it."""
