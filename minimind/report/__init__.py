"""Run folders → metrics, tables, plots."""
