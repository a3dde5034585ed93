"""Tokenizers: ids and texts as ModelScope's own give them (recorded from 1.40.2 with transformers 4.46.3)."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ofa_serving.beam_search import SpecialTokens
from ofa_serving.tokenizer import Tokenizer, VocabularyError

TESTS = Path(__file__).parents[1]
GOLDEN = TESTS / "golden" / "data"
CASES = sorted(path.name for path in GOLDEN.iterdir() if (path / "record.json").exists())
RECORDED = json.loads((TESTS / "data" / "tokenizer.json").read_text(encoding="utf-8"))
CHECKPOINTS = {"en": GOLDEN / "en-default" / "checkpoint", "zh": GOLDEN / "zh-default" / "checkpoint"}


@pytest.fixture(scope="module", params=CHECKPOINTS)
def language(request):
    return request.param


@pytest.fixture(scope="module")
def tokenizer(language):
    return Tokenizer.load(CHECKPOINTS[language], language)


@pytest.mark.parametrize("case", CASES)
def test_golden_records(case):
    record = json.loads((GOLDEN / case / "record.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.load(GOLDEN / case / "checkpoint", "zh" if case.startswith("zh") else "en")
    assert tokenizer.vocab_size == record["vocab_size"]
    assert tokenizer.special == SpecialTokens(**record["special"])
    assert tokenizer.encode_prompt(record["prompt"]) == record["prompt_ids"]
    hypotheses = [one for run in record["beam"] for image in run["hypotheses"] for one in image]
    assert [tokenizer.decode(one["tokens"]) for one in hypotheses] == [one["text"] for one in hypotheses]


def test_random_sequences_decode_as_recorded(tokenizer, language):
    for recorded in RECORDED[language]["decode"]:
        assert tokenizer.decode(recorded["tokens"]) == recorded["text"]
        assert tokenizer.caption(recorded["tokens"]) == recorded["caption"]


def test_prompts_encode_as_recorded(tokenizer, language):
    for recorded in RECORDED[language]["prompts"]:
        assert tokenizer.encode_prompt(recorded["prompt"], 20) == recorded["ids"]


def test_a_long_prompt_is_cut_and_still_ends(tokenizer):
    ids = tokenizer.encode_prompt("图 a " * 300, 256)
    assert len(ids) == 258
    assert (ids[0], ids[-1]) == (tokenizer.special.bos, tokenizer.special.eos)


def test_no_tokens_give_no_text(tokenizer):
    assert tokenizer.caption([]) == ""
    assert tokenizer.caption([tokenizer.special.eos]) == ""


def test_cn_is_zh():
    zh, cn = (Tokenizer.load(CHECKPOINTS["zh"], language) for language in ("zh", "cn"))
    assert zh.encode_prompt("图片描述了什么内容?") == cn.encode_prompt("图片描述了什么内容?")


def test_special_tokens_that_a_vocabulary_lacks_follow_it(tmp_path):
    (tmp_path / "vocab.txt").write_text("<s>\n<pad>\n</s>\n<unk>\n图\n片\n", encoding="utf-8")
    tokenizer = Tokenizer.load(tmp_path, "zh")
    assert tokenizer.encode("图<mask>片<code_0><bin_999>") == [4, 6, 5, 7, 7 + 9191]


@pytest.mark.parametrize(("language", "name"), [("en", "vocab.json"), ("en", "merges.txt"), ("zh", "vocab.txt")])
def test_a_missing_file_is_named_without_its_folder(tmp_path, language, name):
    shutil.copytree(CHECKPOINTS[language], tmp_path, dirs_exist_ok=True)
    (tmp_path / name).unlink()
    with pytest.raises(VocabularyError, match=f"^the vocabulary file {name} is missing$"):
        Tokenizer.load(tmp_path, language)


@pytest.mark.parametrize(
    ("name", "text"),
    [("vocab.json", "{"), ("vocab.json", '{"a": 0}'), ("merges.txt", "#version\nno such\n"), ("vocab.json", "\udcff")],
)
def test_a_damaged_file_is_refused(tmp_path, name, text):
    shutil.copytree(CHECKPOINTS["en"], tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(VocabularyError, match=r"^the vocabulary of vocab\.json and merges\.txt cannot be used"):
        Tokenizer.load(tmp_path, "en")


def test_loads_without_torch_or_transformers():
    program = "import sys, ofa_serving.tokenizer; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
