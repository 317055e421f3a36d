"""The door: the command line, the settings, the wiring. ``main.py`` lists the commands, each lives in its own module."""
