"""Run folders → figures, tables, plots."""
