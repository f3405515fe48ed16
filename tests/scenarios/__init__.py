"""What becomes of a finished job: who said what, who finished it, and what is left of it."""
