"""Tests of composed, typed and checked settings."""
