"""Reports: run folders → metrics, tables, plots."""
