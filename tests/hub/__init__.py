"""The parts of the local Hub; tests/hub_server.py puts them together."""
