"""What the report is made of: the table, the figures, the page."""
