"""How a placement code tells the display and the mailer."""

MAILERS = 11
"""A placement code is display * MAILERS + mailer, each 0 where there is none."""
