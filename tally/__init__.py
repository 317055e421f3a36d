"""The door: the command line, the settings, the wiring. ``commands.py`` lists the commands."""
