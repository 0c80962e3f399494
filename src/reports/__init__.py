"""Reports for people: curves, tables, figures."""
