"""Tests that need no kernel features. They take seconds."""
