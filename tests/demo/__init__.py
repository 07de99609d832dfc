"""Tests of the demo's drawn pairs."""
