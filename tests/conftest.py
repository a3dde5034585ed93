"""Shared by every folder of tests; its being here puts this folder's helpers on the import path."""
