"""Which route won: eight criteria, each measured on the user's own runs."""
