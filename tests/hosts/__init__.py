"""Tests of the product on whole hosts: one booted by a real systemd, and one without systemd."""
