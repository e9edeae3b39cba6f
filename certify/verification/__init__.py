"""Deterministic verification as runs: what is asked, the journalled engine, its rows and exports."""
