"""`report.html`: an evaluation as one page that needs nothing beside it."""
