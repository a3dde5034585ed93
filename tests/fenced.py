"""Reads a page's blocks of code, which the tests of the documentation run."""

import re


def blocks(page, language=""):
    """The page's fenced blocks in a language, in order; those without one by default."""
    fenced = re.findall(r"^```([^\n]*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return [text for named, text in fenced if named == language]
