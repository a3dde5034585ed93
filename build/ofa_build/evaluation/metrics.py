"""COCO's caption metrics, computed by ``pycocoevalcap``: its scores are the ones that papers report."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..data.captions import normalise

log = logging.getLogger("ofa-build")

Texts = Mapping[str, Sequence[str]]
"""Captions by the image's key."""

METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "SPICE")
_BLEU = METRICS[:4]
_CHARACTERS = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
"""Chinese characters and Japanese kana, which are written without blanks between words."""
_MARKS = re.compile("[\u3000-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\u30fb]")
"""Their punctuation."""
_SPICE_LIBRARIES = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


class MetricError(RuntimeError):
    """A metric cannot be computed here; the message says what is missing."""


@dataclass(frozen=True)
class Scores:
    """What captions are worth.

    Attributes:
        overall: each metric over all images; BLEU, METEOR, ROUGE-L and SPICE run to 1, CIDEr to 10.
        each: for the metrics that have one, each image's own value, in the order of ``keys``.
        keys: the images.
        absent: metrics that were asked for and could not be computed, and why.
    """

    overall: Mapping[str, float]
    each: Mapping[str, Sequence[float]]
    keys: Sequence[str]
    absent: Mapping[str, str] = field(default_factory=dict)


def require(metrics: Sequence[str]) -> None:
    """See that there will be scores, before anything is captioned for them.

    Raises:
        MetricError: if pycocoevalcap or Java is missing, or SPICE is wanted alone and lacks what it needs.

    """
    tokenize({"": ["a caption"]})
    if set(metrics) == {"SPICE"}:
        _spice_module()


def score(references: Texts, captions: Mapping[str, str], metrics: Sequence[str] = METRICS) -> Scores:
    """Compare one caption an image with its references.

    Texts go through COCO's tokenizer, which runs in Java, and lose their punctuation and case. Every Chinese character
    counts as a word.

    Args:
        references: one or more captions of each image.
        captions: the caption to judge; the same images.
        metrics: which of :data:`METRICS`.

    Raises:
        MetricError: if pycocoevalcap or Java is not installed.
        ValueError: if the images differ, or there are none.

    """
    _check(references, captions, metrics)
    tokenized = tokenize({**{f"r{key}": texts for key, texts in references.items()}, **_single("c", captions)})
    wanted = {key: tokenized[f"r{key}"] for key in references}
    given = {key: tokenized[f"c{key}"] for key in references}
    return score_tokenized(wanted, given, metrics)


def score_tokenized(references: Texts, captions: Texts, metrics: Sequence[str] = METRICS) -> Scores:
    """Compare texts that are tokenized already: words between single blanks, each caption in a list of its own."""
    overall: dict[str, float] = {}
    each: dict[str, Sequence[float]] = {}
    absent: dict[str, str] = {}
    for names, scorer in _SCORERS.items():
        if not set(names) & set(metrics):
            continue
        try:
            with _quiet():
                totals, singles = scorer(references, captions)
        except MetricError as error:
            absent |= dict.fromkeys(names, str(error))
            continue
        for name, total, values in zip(names, totals, singles, strict=True):
            if name in metrics:
                overall[name], each[name] = float(total), [float(value) for value in values]
    return Scores(overall, each, list(references), absent)


def tokenize(texts: Texts) -> dict[str, list[str]]:
    """Split texts into lower-case words without punctuation, as COCO's evaluation does, in Java.

    Raises:
        MetricError: if pycocoevalcap or Java is missing, or Java fails.

    """
    package = _module("tokenizer.ptbtokenizer")
    _need_java("COCO's tokenizer")
    # pycocoevalcap runs the same, but by way of a file among its own, which not every user may write.
    jar = Path(package.__file__).with_name(package.STANFORD_CORENLP_3_4_1_JAR)
    command = ["java", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    lines = "\n".join(_line(text) for own in texts.values() for text in own)
    try:
        done = subprocess.run([*command, "-encoding", "UTF-8"], input=lines.encode(), capture_output=True, check=False)
    except OSError as error:
        raise MetricError(f"COCO's tokenizer cannot run: {error.strerror}") from error
    split = done.stdout.decode().removesuffix("\n").split("\n")
    if done.returncode or len(split) != lines.count("\n") + 1:
        raise MetricError("COCO's tokenizer ended early; does Java have enough memory?")
    words = iter(
        " ".join(word for word in line.rstrip().split(" ") if word not in package.PUNCTUATIONS) for line in split
    )
    return {key: [next(words) for _ in own] for key, own in texts.items()}


def tokenize_simply(texts: Texts) -> dict[str, list[str]]:
    """Split texts without Java: lower case, no punctuation. For a training run's own CIDEr, and as a reward."""
    drop = {ord(mark): " " for mark in '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~'} | {ord("'"): None}
    return {
        key: [" ".join(_spaced(text).lower().translate(drop).split()) for text in own] for key, own in texts.items()
    }


def cider(references: Texts, captions: Mapping[str, str]) -> float:
    """Give CIDEr, in hundreds as papers write it, with COCO's tokenizer if it can run."""
    split = _usable_tokenizer()
    wanted, given = split(references), split(_single("", captions))
    return 100 * score_tokenized(wanted, given, ["CIDEr"]).overall["CIDEr"]


def is_exact(caption: str, references: Sequence[str]) -> bool:
    """Tell whether a caption is one of its references, but for ASCII punctuation and blanks.

    A caption has no punctuation, as it was taught; COCO's references end in a full stop.
    """
    return _bare(caption) in map(_bare, references)


@functools.cache
def _usable_tokenizer() -> Callable[[Texts], dict[str, list[str]]]:
    """Choose once: a run's scores, by which its best checkpoint is chosen, are to be of one kind."""
    if shutil.which("java") is None:
        return tokenize_simply
    try:
        tokenize({"": ["a caption"]})
    except MetricError as error:
        log.warning("%s; captions are split without it, and CIDEr may be off by a little", error)
        return tokenize_simply
    return tokenize


def _bare(text: str) -> str:
    return normalise(_spaced(text))


def _spaced(text: str) -> str:
    """Make a word of each Chinese character; of other scripts nothing changes."""
    return _CHARACTERS.sub(r" \g<0> ", _MARKS.sub(" ", text))


def _check(references: Texts, captions: Mapping[str, str], metrics: Sequence[str]) -> None:
    if not references or set(references) != set(captions):
        raise ValueError("captions and references must be of the same images, one or more")
    unknown = set(metrics) - set(METRICS)
    if unknown:
        raise ValueError(f"{min(unknown)} is no metric; there are {', '.join(METRICS)}")


def _single(prefix: str, captions: Mapping[str, str]) -> dict[str, list[str]]:
    return {f"{prefix}{key}": [caption] for key, caption in captions.items()}


def _line(text: str) -> str:
    # An empty line would be lost among the others; a full stop is dropped like it.
    return " ".join(_spaced(text).split()) or "."


def _bleu(references: Texts, captions: Texts) -> tuple[Sequence[float], Sequence[Sequence[float]]]:
    return _module("bleu.bleu").Bleu(4).compute_score(references, captions, verbose=0)


def _meteor(references: Texts, captions: Texts) -> tuple[Sequence[float], Sequence[Sequence[float]]]:
    meteor = _module("meteor.meteor")
    _need_java("METEOR")
    total, values = meteor.Meteor().compute_score(references, captions)
    return [total], [values]


def _rouge(references: Texts, captions: Texts) -> tuple[Sequence[float], Sequence[Sequence[float]]]:
    total, values = _module("rouge.rouge").Rouge().compute_score(references, captions)
    return [total], [values]


def _cider(references: Texts, captions: Texts) -> tuple[Sequence[float], Sequence[Sequence[float]]]:
    total, values = _module("cider.cider").Cider().compute_score(references, captions)
    return [total], [values]


def _spice(references: Texts, captions: Texts) -> tuple[Sequence[float], Sequence[Sequence[float]]]:
    total, values = _spice_module().Spice().compute_score(references, captions)
    # It sorts the keys; the other scorers keep their order.
    by_key = dict(zip(sorted(references), values, strict=True))
    return [total], [[by_key[key]["All"]["f"] for key in references]]


_SCORERS: Mapping[tuple[str, ...], Callable[[Texts, Texts], Any]] = {
    _BLEU: _bleu,
    ("METEOR",): _meteor,
    ("ROUGE-L",): _rouge,
    ("CIDEr",): _cider,
    ("SPICE",): _spice,
}


def _spice_module() -> Any:
    spice = _module("spice.spice")
    _need_java("SPICE")
    libraries = Path(spice.__file__).parent / "lib"
    if not all((libraries / name).is_file() for name in _SPICE_LIBRARIES):
        raise MetricError(
            "SPICE needs Stanford CoreNLP 3.6.0, which pycocoevalcap does not carry: "
            "run python -m pycocoevalcap.spice.get_stanford_models where there is a network"
        )
    return spice


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f"pycocoevalcap.{name}")
    except ImportError as error:
        raise MetricError("pycocoevalcap is not installed: install ofa-triton[train]") from error


def _need_java(what: str) -> None:
    if shutil.which("java") is None:
        raise MetricError(f"{what} runs in Java, which is not installed")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Swallow what the metrics and their Java programs print, and numpy's warnings of what is nought."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere), np.errstate(all="ignore"):
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
