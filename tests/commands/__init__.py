"""Tests of the commands, most of them in processes of their own."""
