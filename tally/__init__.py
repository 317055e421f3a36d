"""The door: the command line, the settings, and the wiring of everything behind it.

``main`` ends every command with the right exit code, ``commands`` says what can be asked for. A command is a skin over
a module of its name: ``broker`` and ``store`` run the servers, ``migrate`` makes tables and topics, ``catalog`` puts
prices and rules into force, ``worker`` runs the agents, ``send`` and ``drain`` put events in and wait for them,
``report`` and ``audit`` answer and prove, ``up`` and ``demo`` do all of it at once. ``kafka`` and ``connect`` are the
ways to the two servers; ``settings`` alone reads the environment.
"""
