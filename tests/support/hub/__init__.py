"""The parts of the local Hub; tests/support/hub_server.py puts them together."""
