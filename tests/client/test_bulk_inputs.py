"""What a data set may be: files, folders, patterns, archives, tables and lists; whole or in shards."""

from __future__ import annotations

import io
import os
import random
import re
import sys
import tarfile

import pytest
from ofa_client import ImageTooLargeError
from ofa_client.bulk.items import Columns, Inputs
from ofa_client.bulk.shard import Shard
from ofa_client.contract import MAX_IMAGE_BYTES
from ofa_client.images import read_image

pa = pytest.importorskip("pyarrow", reason="Parquet is an extra")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that is the current one, with images in folders and other files between them."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos/b.jpg", "photos/a.PNG", "photos/deep/er/c.webp", "photos/notes.txt", "photos/d.tiff", "x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def keys(*names, **settings):
    return [item.key for item in Inputs(names, **settings)]


def contents(*names, **settings):
    """Keys and bytes; an item that cannot be loaded has its reason."""

    def load(item):
        try:
            return read_image(item.load())
        except OSError as error:
            return error.strerror
        except ImageTooLargeError as error:
            return str(error)

    return {item.key: load(item) for item in Inputs(names, **settings)}


def write_tar(path, names, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))


def write_parquet(path, columns, **settings):
    from pyarrow import parquet

    parquet.write_table(pa.table(columns), path, **settings)


def test_a_file_is_itself_whatever_its_suffix(folder):
    assert contents("x", "photos/d.tiff") == {"x": b"x", "photos/d.tiff": b"photos/d.tiff"}


def test_a_folder_is_the_images_below_it_sorted(folder):
    """Those that the server does not read as well: it refuses them, and nobody thinks they were captioned."""
    assert keys("photos") == ["photos/a.PNG", "photos/b.jpg", "photos/d.tiff", "photos/deep/er/c.webp"]


def test_a_folder_that_is_linked_to_is_not_followed(folder):
    (folder / "photos/deep/again").symlink_to(folder / "photos")
    assert len(keys("photos")) == 4


def test_a_link_to_nowhere_is_reported_and_a_pipe_is_not_waited_for(folder):
    (folder / "photos/lost.jpg").symlink_to("nowhere")
    os.mkfifo(folder / "photos/pipe.jpg")
    found = keys("photos")
    assert "photos/lost.jpg" in found
    assert "photos/pipe.jpg" not in found


def test_links_in_a_circle_are_reported_as_one_image_each(folder):
    (folder / "photos/loop.jpg").symlink_to("loop.jpg")
    assert contents("photos")["photos/loop.jpg"] == "Too many levels of symbolic links"
    assert len(keys("photos")) == 5


def test_a_pattern_is_what_matches_it(folder):
    assert keys("photos/*.jpg") == ["photos/b.jpg"]
    assert keys("photos/**/*.webp") == ["photos/deep/er/c.webp"]


def test_a_file_with_a_patterns_letters_is_itself(folder):
    (folder / "photo[1].jpg").write_bytes(b"one")
    assert contents("photo[1].jpg") == {"photo[1].jpg": b"one"}


def test_a_pattern_without_match_is_an_item_that_fails(folder):
    assert contents("*.gif") == {"*.gif": "no file matches"}


def test_a_url_is_left_to_the_client():
    [item] = Inputs(["https://example.org/cat.jpg"])
    assert item.key == item.load() == "https://example.org/cat.jpg"


def test_a_list_names_paths_and_urls(folder):
    (folder / "list.txt").write_text("\ufeffphotos/b.jpg\r\n\n  https://example.org/cat.jpg  \n")
    assert keys("list.txt") == ["photos/b.jpg", "https://example.org/cat.jpg"]


def test_a_list_may_come_from_standard_input(folder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("photos/b.jpg\nx\n"))
    assert keys("-") == ["photos/b.jpg", "x"]


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tgz"])
def test_an_archive_is_its_images(folder, suffix):
    write_tar(f"shard.{suffix}", ["0.jpg", "0.json", "deep/1.png"], "w:gz" if "gz" in suffix else "w")
    name = f"shard.{suffix}"
    assert contents(name) == {f"{name}/0.jpg": b"0.jpg", f"{name}/deep/1.png": b"deep/1.png"}


def test_an_archive_cut_short_gives_what_it_has_and_fails_itself(folder):
    write_tar("shard.tar", [f"{i}.jpg" for i in range(4)])
    data = (folder / "shard.tar").read_bytes()
    (folder / "shard.tar").write_bytes(data[: 512 * 5 + 100])
    found = contents("shard.tar", "x")
    assert found["shard.tar/0.jpg"] == b"0.jpg"
    assert [key for key, value in found.items() if isinstance(value, str)] == ["shard.tar"]
    assert "archive is damaged" in found["shard.tar"]
    assert found["x"] == b"x"


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_cut_anywhere_loses_no_image_in_silence(folder, mode):
    name = "shard.tar" if mode == "w" else "shard.tar.gz"
    write_tar(name, [f"{i}.jpg" for i in range(4)], mode)
    data = (folder / name).read_bytes()
    whole = contents(name)
    assert len(whole) == 4
    for size in range(0, len(data), 100 if mode == "w" else 1):
        (folder / name).write_bytes(data[:size])
        found = contents(name)
        assert found == whole or isinstance(found[name], str), size
        good = {key: value for key, value in found.items() if isinstance(value, bytes)}
        assert good.items() <= whole.items()
        assert mode != "w" or len(good) == min((size + 507) // 1024, 4)  # 512 bytes of header, 5 of image


def test_an_archive_without_its_end_gives_its_images_and_is_reported(folder):
    """Some tools write none; it cannot be told from one that was cut between two members."""
    write_tar("shard.tar", ["0.jpg", "1.jpg"])
    (folder / "shard.tar").write_bytes((folder / "shard.tar").read_bytes()[: 4 * 512])
    assert contents("shard.tar") == {
        "shard.tar/0.jpg": b"0.jpg",
        "shard.tar/1.jpg": b"1.jpg",
        "shard.tar": "the archive is damaged (it ends early)",
    }


@pytest.mark.parametrize("member", [0, 1, 3])
def test_a_hole_of_zeros_is_not_taken_for_the_end(folder, member):
    write_tar("shard.tar", [f"{i}.jpg" for i in range(4)])
    data = bytearray((folder / "shard.tar").read_bytes())
    data[1024 * member : 1024 * member + 512] = bytes(512)
    (folder / "shard.tar").write_bytes(data)
    found = contents("shard.tar")
    assert found.pop("shard.tar") == "the archive is damaged (there is more behind its end)"
    assert list(found) == [f"shard.tar/{i}.jpg" for i in range(member)]


def test_an_archive_of_nothing_is_whole(folder):
    write_tar("shard.tar", [])
    assert contents("shard.tar") == {}


@pytest.mark.parametrize(("suffix", "mode"), [("tar.gz", "w:gz"), ("tar.bz2", "w:bz2"), ("tar.xz", "w:xz")])
def test_a_compressed_archive_that_is_damaged_fails_and_the_rest_goes_on(folder, suffix, mode):
    name, chance = f"shard.{suffix}", random.Random(0)
    with tarfile.open(name, mode) as archive:
        for i in range(4):
            member = tarfile.TarInfo(f"{i}.jpg")
            member.size = 1 << 18
            archive.addfile(member, io.BytesIO(chance.randbytes(member.size // 2).hex().encode()))
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2 :] = chance.randbytes(len(data) - len(data) // 2)
    (folder / name).write_bytes(data)
    found = contents(name, "x")
    assert found["x"] == b"x"
    assert isinstance(found[name], str)


def test_an_archive_with_a_damaged_header_in_it_fails(folder):
    """tarfile takes it for the end."""
    write_tar("shard.tar", [f"{i}.jpg" for i in range(4)])
    data = bytearray((folder / "shard.tar").read_bytes())
    data[512 * 4] ^= 1
    (folder / "shard.tar").write_bytes(data)
    found = contents("shard.tar")
    assert found.pop("shard.tar") == "the archive is damaged (bad checksum)"
    assert found == {"shard.tar/0.jpg": b"0.jpg", "shard.tar/1.jpg": b"1.jpg"}


def test_an_archive_whose_header_lies_fails(folder):
    """tarfile lets this one's ValueError through."""
    sparse = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "a,b", "GNU.sparse.size": "1"}
    with tarfile.open("shard.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("0.jpg")
        member.pax_headers = sparse
        archive.addfile(member)
    assert "damaged" in contents("shard.tar")["shard.tar"]


def header(kind, size=0, **fields):
    member = tarfile.TarInfo("long")
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


LONG = 2 << 20
SPARSE = bytearray(header(tarfile.GNUTYPE_SPARSE))
SPARSE[482] = 1  # its map goes on in the next block
SPARSE[148:156] = b"%06o\0 " % (sum(SPARSE[:148]) + 8 * 32 + sum(SPARSE[156:]))


@pytest.mark.parametrize(
    "headers",
    [
        header(tarfile.XHDTYPE, LONG) + b"%d comment=%s\n" % (LONG, b"x" * (LONG - 17)),
        header(tarfile.GNUTYPE_LONGNAME, LONG) + b"x" * LONG,
        bytes(SPARSE) + (b"00000000001\0" * 42 + b"\1" + bytes(7)) * (LONG // 512),
    ],
    ids=["attributes", "name", "map"],
)
def test_headers_are_not_read_however_long(folder, headers):
    """A thousandth of that, compressed, would take all memory."""
    write_tar("whole.tar", ["0.jpg", "1.jpg"])
    data = (folder / "whole.tar").read_bytes()
    (folder / "shard.tar").write_bytes(data[:1024] + headers + data[1024:])
    assert contents("shard.tar") == {
        "shard.tar/0.jpg": b"0.jpg",
        "shard.tar": "the archive is damaged (a header's size is out of range)",
    }


def test_what_is_too_large_for_the_server_is_not_read(folder):
    for name in ("huge.jpg", "edge.jpg"):
        with (folder / name).open("wb") as file:
            file.truncate(MAX_IMAGE_BYTES + (name == "huge.jpg"))
    with tarfile.open("shard.tar", "w") as archive:
        for name in ("huge.jpg", "edge.jpg"):
            archive.add(name)
    found = contents("huge.jpg", "edge.jpg", "shard.tar")
    for name in ("", "shard.tar/"):
        assert found[f"{name}huge.jpg"].startswith("IMAGE_TOO_LARGE: huge.jpg is larger than 20 MiB")
        assert len(found[f"{name}edge.jpg"]) == MAX_IMAGE_BYTES


@pytest.mark.parametrize("name", ["none.tar", "none.parquet"])
def test_an_archive_that_is_missing_fails_and_the_rest_goes_on(folder, name):
    assert contents(name, "x") == {name: "No such file or directory", "x": b"x"}


def test_an_archive_that_is_none_fails(folder):
    (folder / "a.tar").write_text("nothing of the kind")
    (folder / "a.parquet").write_text("nothing of the kind")
    found = contents("a.tar", "a.parquet")
    assert found["a.tar"] == "this is no tar archive, or its beginning is damaged"
    assert found["a.parquet"] == "this is no Parquet file"


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize(
    "content", [b"", b"no archive\n" * 1000, b"\x1f\x8b\x08" + b"\xff" * 2000, b"BZh9" + b"\0" * 600]
)
def test_why_a_file_is_no_archive_is_one_line_without_the_librarys_names(folder, suffix, content):
    (folder / f"a.{suffix}").write_bytes(content)
    reason = contents(f"a.{suffix}")[f"a.{suffix}"]
    assert reason.startswith(("this is no tar archive", "the archive is damaged"))
    assert not re.search(r"\n|Error|method|b'|0x", reason)


@pytest.mark.parametrize(("suffix", "mode"), [("tar.gz", "w:gz"), ("tar.bz2", "w:bz2"), ("tar.xz", "w:xz")])
def test_why_a_compressed_archive_is_damaged_is_one_line_as_well(folder, suffix, mode):
    name = f"shard.{suffix}"
    write_tar(name, [f"{i}.jpg" for i in range(20)], mode)
    data = (folder / name).read_bytes()
    for size in (len(data) // 2, len(data) - 6):
        for rest in (b"", b"\xff" * (len(data) - size)):
            (folder / name).write_bytes(data[:size] + rest)
            reasons = [value for value in contents(name).values() if isinstance(value, str)]
            assert reasons
            assert not re.search(r"\n|Error|method|b'|0x|stream", " ".join(reasons))


def test_a_table_holds_bytes(folder):
    write_parquet("t.parquet", {"image": [b"one", b"two"], "other": [1, 2]})
    assert contents("t.parquet") == {"t.parquet/0": b"one", "t.parquet/1": b"two"}


def test_a_table_holds_images_as_hugging_face_has_them(folder):
    write_parquet("t.parquet", {"image": [{"bytes": b"one", "path": "1.jpg"}, {"bytes": None, "path": "x"}]})
    assert contents("t.parquet") == {"t.parquet/0": b"one", "t.parquet/1": b"x"}


def test_a_table_holds_paths_and_names(folder):
    write_parquet("t.parquet", {"file": ["x", None], "id": [17, 18]})
    assert contents("t.parquet", columns=Columns("file", "id")) == {"17": b"x", "18": "the row has no image"}


def test_a_row_without_a_name_has_its_number(folder):
    write_parquet("t.parquet", {"image": [b"one", b"two", b"three"], "id": [None, "two", None]})
    found = contents("t.parquet", columns=Columns("image", "id"))
    assert found == {"t.parquet/0": b"one", "two": b"two", "t.parquet/2": b"three"}


def test_a_damaged_row_group_fails_and_the_others_are_read(folder):
    from pyarrow.parquet import read_metadata

    write_parquet("t.parquet", {"image": [b"%d" % i for i in range(6)]}, row_group_size=2, use_dictionary=False)
    data = bytearray((folder / "t.parquet").read_bytes())
    begin = read_metadata("t.parquet").row_group(1).column(0).data_page_offset
    data[begin : begin + 16] = b"\xff" * 16
    (folder / "t.parquet").write_bytes(data)
    found = contents("t.parquet", "x")
    reason = found.pop("t.parquet/2")
    assert reason.startswith("the table is damaged: rows 2 to 3 cannot be read (")
    assert found == {"x": b"x", **{f"t.parquet/{i}": b"%d" % i for i in (0, 1, 4, 5)}}


def test_a_path_that_is_no_text_fails(folder):
    array = pa.Array.from_buffers(pa.string(), 2, pa.array([b"x", b"\xff"]).buffers())
    write_parquet("t.parquet", {"image": array})
    assert contents("t.parquet") == {"t.parquet/0": b"x", "t.parquet/1": "the row is damaged"}


def test_images_are_counted_and_tables_are_not_read_for_it(folder, monkeypatch):
    from pyarrow.parquet import ParquetFile

    write_tar("shard.tar", ["0.jpg", "1.jpg"])
    write_parquet("t.parquet", {"image": [b"x"] * 8}, row_group_size=2)
    monkeypatch.setattr(ParquetFile, "iter_batches", lambda *_, **__: pytest.fail("it was read"))
    names = ["photos", "shard.tar", "t.parquet"]
    assert Inputs(names).count() == 4 + 2 + 8
    assert sum(Inputs(names, shard=Shard(i, 3)).count() for i in range(3)) == 14


def test_images_of_one_name_are_counted_once(folder):
    write_tar("shard.tar", ["0.jpg", "0.jpg", "1.jpg"])
    (folder / "list.txt").write_text("x\nphotos/b.jpg\nx\n")
    assert Inputs(["photos", "shard.tar", "list.txt", "photos/*.jpg"]).count() == 4 + 2 + 1


def test_folders_and_lists_without_an_image_are_named(folder):
    (folder / "empty/deep").mkdir(parents=True)
    (folder / "list.txt").write_text("\n\n")
    inputs = Inputs(["photos", "empty", "list.txt", "x", "*.gif", "empty/*"], Shard(0, 3))
    for _ in range(2):
        assert list(inputs)
        assert list(inputs.without_images) == ["empty", "list.txt", "empty/*"]


def test_nothing_is_decompressed_to_be_counted(folder):
    write_tar("shard.tar.gz", ["0.jpg"], "w:gz")
    assert Inputs(["photos", "shard.tar.gz"]).count() is None


def test_what_a_pipe_names_comes_once(folder):
    os.mkfifo(folder / "list.txt")
    assert Inputs(["x", "list.txt"]).come_once
    assert Inputs(["-"]).come_once
    assert not Inputs(["photos", "x", "photos/*.jpg", "missing.txt", "http://host/cat.jpg"]).come_once


def test_a_column_that_is_missing_is_named(folder):
    write_parquet("t.parquet", {"file": ["x"], "id": [17]})
    with pytest.raises(ValueError, match="no column 'image', only file, id"):
        keys("t.parquet")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_is_closed_fails_and_the_rest_goes_on(folder):
    (folder / "photos/deep").chmod(0)
    assert contents("photos")["photos/deep"] == "Permission denied"


def test_every_image_is_in_exactly_one_shard(folder):
    (folder / "list.txt").write_text("".join(f"photos/{i}.jpg\n" for i in range(1000)))
    parts = [keys("list.txt", shard=Shard(i, 4)) for i in range(4)]
    assert sorted(key for part in parts for key in part) == sorted(keys("list.txt"))
    assert all(150 < len(part) < 350 for part in parts)


def test_an_images_shard_does_not_depend_on_the_others(folder):
    (folder / "list.txt").write_text("".join(f"photos/{i}.jpg\n" for i in range(100)))
    before = keys("list.txt", shard=Shard(1, 3))
    (folder / "list.txt").write_text("".join(f"photos/{i}.jpg\n" for i in range(1, 101)))
    assert set(keys("list.txt", shard=Shard(1, 3))) - {"photos/100.jpg"} == set(before) - {"photos/0.jpg"}


def test_archives_and_row_groups_are_whole_in_a_shard(folder):
    for i in range(4):
        write_tar(f"{i}.tar", [f"{j}.jpg" for j in range(3)])
    write_parquet("t.parquet", {"image": [b"x"] * 8}, row_group_size=2)
    names = [f"{i}.tar" for i in range(4)] + ["t.parquet"]
    first, second = (keys(*names, shard=Shard(i, 2)) for i in range(2))
    assert {key.split("/")[0] for key in first} == {"0.tar", "2.tar", "t.parquet"}
    assert [key for key in second if key.startswith("t.")] == [f"t.parquet/{i}" for i in (2, 3, 6, 7)]


def test_a_table_that_a_shard_cannot_open_ends_it(folder):
    """Its row groups number what comes after them, on the machines that can."""
    write_tar("0.tar", ["0.jpg"])
    with pytest.raises(ValueError, match=r"none\.parquet: No such file or directory; each shard"):
        keys("none.parquet", "0.tar", shard=Shard(0, 2))


def test_a_table_that_is_none_counts_as_one_part_in_each_shard(folder):
    (folder / "a.parquet").write_text("nothing of the kind")
    write_tar("0.tar", ["0.jpg"])
    assert [keys("a.parquet", "0.tar", shard=Shard(i, 2)) for i in range(2)] == [["a.parquet"], ["0.tar/0.jpg"]]


@pytest.mark.parametrize("text", ["8/8", "1", "a/b", "-1/2", "0/0"])
def test_a_shard_that_makes_no_sense_is_refused(text):
    with pytest.raises(ValueError, match="i from 0 to n-1"):
        Shard.parse(text)


def test_a_thousand_images_of_an_archive_are_not_held(folder):
    """The archive's own list of members does not grow."""
    write_tar("shard.tar", [f"{i}.jpg" for i in range(1000)])
    import gc

    alive = set()
    for i, item in enumerate(Inputs(["shard.tar"])):
        item.load()
        if i in (100, 900):
            gc.collect()
            alive.add(sum(type(thing) is tarfile.TarInfo for thing in gc.get_objects()))
    assert max(alive) < 10
