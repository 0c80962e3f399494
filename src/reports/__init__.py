"""What a run shows a person: curves, tables, figures."""
