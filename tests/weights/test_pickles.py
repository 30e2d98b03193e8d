"""Published file formats come back equal; nothing foreign runs, whatever the file says."""

import collections
import os
import pickle
import struct
import sys
import types
import zipfile

import numpy as np
import pytest
import torch

from nuriwake.core.errors import UserError
from nuriwake.weights.builders import ALLOWED, Placeholder
from nuriwake.weights.pickles import read_pickle


class Malicious:
    """Runs `function(*arguments)` when it is unpickled the usual way."""

    def __init__(self, function, *arguments):
        self._call = (function, arguments)

    def __reduce__(self):
        return self._call


def state_dict():
    shared = torch.arange(12.0).reshape(3, 4)
    return {
        "weight": torch.randn(3, 4, 2),
        "shared": shared,
        "turned": shared.T,
        "part": shared[1:, 2:],
        "half": torch.randn(5).half(),
        "brain": torch.randn(5).bfloat16(),
        "count": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "flags": torch.tensor([True, False]),
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value.detach())


@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_files(tmp_path, zipped):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    expected = state_dict()
    saved = {
        "state_dict": collections.OrderedDict(expected),
        "epoch": 3,
        "size": torch.Size((2, 3)),
        "more": [1.5, None, {2}],
    }
    torch.save({**saved, "model": model.state_dict()}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    found = read_pickle(tmp_path / "a.pth")
    assert_same(found["state_dict"], expected)
    assert_same(found["model"], dict(model.state_dict()))
    assert (found["epoch"], found["size"], found["more"]) == (3, (2, 3), [1.5, None, {2}])
    assert type(found["state_dict"]) is dict


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_plain_pickles_with_numpy_arrays(tmp_path, protocol):
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.random((3, 4), np.float32),
        "column": np.asfortranarray(rng.random((3, 4))),
        "big": rng.integers(0, 9, 5).astype(">i4"),
        "none": np.zeros((0, 2), np.float16),
        "scalar": np.array(3.5),
    }
    saved = {"model": arrays, "__author__": "someone", "iteration": np.int64(9), "matching_heuristics": True}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(saved, protocol))
    found = read_pickle(tmp_path / "a.pkl")
    assert (found["__author__"], found["iteration"], found["matching_heuristics"]) == ("someone", 9, True)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found["model"][name], array)
        assert found["model"][name].dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize("zipped", [True, False, None])
@pytest.mark.parametrize("under", [(), ("meta",)])
def test_a_planted_malicious_pickle_is_refused_and_never_run(tmp_path, zipped, under):
    mark, path = tmp_path / "ran", tmp_path / "evil.pth"
    for function, arguments, name in (
        (os.system, (f"touch {mark}",), r"system"),
        (eval, (f"open({str(mark)!r}, 'w')",), r"eval"),
        (exec, (f"open({str(mark)!r}, 'w')",), r"exec"),
        (open, (str(mark), "w"), r"open"),
    ):
        saved = {"state_dict": {"a": torch.zeros(2)}, "meta": {"x": Malicious(function, *arguments)}}
        if zipped is None:
            path.write_bytes(pickle.dumps(saved["meta"]))
        else:
            torch.save(saved, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(
            UserError, match=rf"evil\.pth: refused, nothing in it was run: it wants the object '[\w.]*{name}'"
        ):
            read_pickle(path, placeholders_under=under)
        assert not mark.exists()


@pytest.fixture
def foreign():
    """A module of another framework, present while the file is written and gone afterwards."""
    module = types.ModuleType("mmfake.config")

    class ConfigDict(dict):
        pass

    class Hook:
        def __init__(self):
            self.state = [1, 2]

    for kind in (ConfigDict, Hook):
        kind.__module__, kind.__qualname__ = "mmfake.config", kind.__name__
        setattr(module, kind.__name__, kind)
    sys.modules["mmfake"], sys.modules["mmfake.config"] = types.ModuleType("mmfake"), module
    yield module
    for name in ("mmfake", "mmfake.config"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("zipped", [True, False])
def test_foreign_objects_in_meta_become_placeholders(tmp_path, foreign, zipped):
    config = foreign.ConfigDict(a=1)
    config["hook"] = foreign.Hook()
    saved = {
        "meta": {"cfg": config, "classes": ("road", "car"), "hooks": [foreign.Hook()]},
        "state_dict": {"a": torch.ones(2)},
    }
    torch.save(saved, tmp_path / "mm.pth", _use_new_zipfile_serialization=zipped)
    for name in ("mmfake", "mmfake.config"):
        del sys.modules[name]
    found = read_pickle(tmp_path / "mm.pth", placeholders_under=("meta", "optimizer"))
    assert torch.equal(found["state_dict"]["a"], torch.ones(2))
    assert found["meta"]["classes"] == ("road", "car")
    assert isinstance(found["meta"]["cfg"], Placeholder)
    assert found["meta"]["cfg"].name == "mmfake.config.ConfigDict"
    assert "mmfake" not in sys.modules
    with pytest.raises(UserError, match=r"it wants the object 'mmfake\.config\.\w+'"):
        read_pickle(tmp_path / "mm.pth")
    with pytest.raises(UserError, match=r"it wants the object 'mmfake\.config\.\w+'"):
        read_pickle(tmp_path / "mm.pth", placeholders_under=("optimizer",))


def test_truncated_files(tmp_path):
    path = tmp_path / "cut.pth"
    for zipped in (True, False):
        torch.save(state_dict(), path, _use_new_zipfile_serialization=zipped)
        whole = path.read_bytes()
        for share in (0.1, 0.5, 0.9, 0.99):
            path.write_bytes(whole[: int(len(whole) * share)])
            with pytest.raises(UserError, match=r"cut\.pth: (no readable checkpoint|refused)"):
                read_pickle(path)
    for content in (b"", b"PK\x03\x04", b"<html>not found</html>", b"\x80\x04", bytes(1000)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"cut\.pth: no readable checkpoint"):
            read_pickle(path)
    with pytest.raises(UserError, match="there is no such checkpoint"):
        read_pickle(tmp_path / "none.pth")


def test_every_damaged_byte_is_an_error_or_a_value_but_never_a_crash(tmp_path):
    path = tmp_path / "a.pth"
    torch.save(state_dict(), path, _use_new_zipfile_serialization=False)
    whole = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_pickle(path, placeholders_under=("meta",))
        except UserError:
            refused += 1
    assert 30 < refused < 300


def test_zip_bombs(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
        archive.writestr("a/data/0", bytes(50_000_000))
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match=r"compressed entries, which PyTorch never writes \(a zip bomb\?\)"):
        read_pickle(path)
    torch.save({"a": torch.zeros(1000)}, path)
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        (entry,) = (item for item in archive.infolist() if item.filename.endswith("data/0"))
    central = data.index(b"PK\x01\x02")
    place = data.index(entry.filename.encode(), central) - 46
    lying = bytearray(data)
    struct.pack_into("<II", lying, place + 20, 2**31, 2**31)
    path.write_bytes(lying)
    with pytest.raises(UserError, match="claim more bytes than the file has"):
        read_pickle(path)


def assemble(*parts):
    return b"".join(parts) + b"."


STORAGE = b"ctorch\nFloatStorage\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
MAKE_DTYPE = b"cnumpy\ndtype\n(S'f4'\ntR"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (assemble(b"cnumpy\ndtype\n", b"(S'O8'\ntR"), "which are no numbers"),
        (assemble(b"cnumpy\ndtype\n", b"}b"), "tries to change how objects are built"),
        (assemble(STORAGE, b"}S'dtype'\nK\x01sb"), "no readable checkpoint"),
        (assemble(b"K\x01", b"0", b"0"), "no readable checkpoint"),
        (assemble(b"c_codecs\nencode\n(Vx\n)", b"2\x86" * 40, b"tR"), "encodes text as a tuple"),
        (assemble(b"cnumpy\ndtype\n()", b"2\x86" * 40, b"tR"), "an array of a tuple, which are no numbers"),
        (assemble(b"cbuiltins\nset\n(](I1\nI2\neI3\ntR"), "a plain container is described wrongly"),
        (assemble(b"cbuiltins\ndict\n(](I1\nI2\netR"), "a mapping is described wrongly"),
        (assemble(b"(K\x01K\x02K\x03d"), "no readable checkpoint"),
        (assemble(b"N", b"K\x01a"), "fills what is no list"),
        (assemble(b"N", b"K\x01K\x02s"), "fills what is no mapping"),
        (assemble(b"N(K\x01", b"\x90"), "fills what is no set"),
        (assemble(b"NNb"), "changes a NoneType"),
        (assemble(b"N)R"), "calls a NoneType"),
        (assemble(b"cbuiltins\nset\n)", b"\x81"), "makes an object of a Builder"),
        (assemble(b"NN", b"\x93"), "names an object by what is no text"),
        (assemble(b"(I1\nios\nsystem\n"), "instruction INST"),
        (assemble(b"\x82\x01"), "instruction EXT1"),
        (assemble(b"\x8e", struct.pack("<Q", 2**50), b"x"), "no readable checkpoint"),
        (assemble(b"c_codecs\nencode\n(Vx\nVzlib\ntR"), "encodes text as 'zlib'"),
        (assemble(REBUILD, b"(K\x01K\x00(K\x05t(K\x01ttR"), "a tensor is described wrongly"),
        (assemble(b"(S'storage'\n", STORAGE, b"S'0'\nS'cpu'\nL99999999999L\ntQ"), "more bytes than the file has"),
        (assemble(b"(S'module'\n", STORAGE, b"S'0'\nS'cpu'\nK\x01tQ"), "external object that is no storage"),
        (assemble(REBUILD), "holds a Builder where a tensor"),
        (assemble(b"}", REBUILD, b"K\x01s"), "a key or member of a set is a Builder"),
    ],
)
def test_hand_written_programs(tmp_path, program, message):
    path = tmp_path / "hand.pkl"
    path.write_bytes(program)
    before = dict(ALLOWED)
    with pytest.raises(UserError, match=message):
        read_pickle(path)
    assert before == ALLOWED
    assert ALLOWED["torch.FloatStorage"].dtype == torch.float32


def test_tensors_cannot_reach_beyond_their_numbers_or_unfold_them(tmp_path):
    path = tmp_path / "a.pth"
    for size, stride in (((100,), (1,)), ((1000, 1000), (0, 0)), ((3,), (4,))):
        torch.save({"a": torch.zeros(8)}, path, _use_new_zipfile_serialization=False)
        data = path.read_bytes()
        old = pickle.dumps((8,), 2)[2:-3], pickle.dumps((1,), 2)[2:-3]
        assert data.count(b"K\x08\x85") == 1
        new = b"(" + b"".join(b"M" + struct.pack("<H", n) for n in size) + b"t"
        steps = b"(" + b"".join(b"M" + struct.pack("<H", n) for n in stride) + b"t"
        path.write_bytes(data.replace(b"K\x08\x85", new).replace(b"K\x01\x85", steps))
        assert old
        with pytest.raises(UserError, match="reaches beyond its numbers"):
            read_pickle(path)


def test_containers_that_unfold_without_end(tmp_path):
    nested = ()
    for _ in range(150):
        nested = (nested, nested)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": nested}))
    assert len(read_pickle(tmp_path / "a.pkl")["a"]) == 2
    for _ in range(100):
        nested = [nested]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": nested}))
    with pytest.raises(UserError, match="more than 200 deep"):
        read_pickle(tmp_path / "a.pkl")


def test_the_shared_mobilenet_file(shared):
    path = shared / "data" / "weights" / "mobilenet_v2-b0353104.pth"
    expected = torch.load(path, weights_only=True)
    assert_same(read_pickle(path), dict(expected))


def nested_pairs(times):
    """A tuple of two of itself, `times` deep: few bytes, 2**times members."""
    return b")" + b"2\x86" * times


ODD_KEYS = {
    "a key of pairs of pairs": b"}" + nested_pairs(40) + b"K\x01s",
    "a key nested deeply": b"})" + b"\x85" * 300_000 + b"K\x01s",
    "keys of a mark": b"(" + nested_pairs(40) + b"K\x01d",
    "keys of pairs": b"cbuiltins\ndict\n(](" + nested_pairs(40) + b"K\x01\x86" + b"etR",
    "keys of ordered pairs": b"ccollections\nOrderedDict\n(](" + nested_pairs(40) + b"K\x01\x86" + b"etR",
    "a member of a set": b"\x8f(" + nested_pairs(40) + b"\x90",
    "a member of a frozen set": b"(" + nested_pairs(40) + b"\x91",
    "a member of a called set": b"cbuiltins\nset\n(](" + nested_pairs(40) + b"etR",
    "a huge number": b"}" + pickle.dumps(1 << 80_000, 2)[2:-1] + b"K\x01s",
}


@pytest.mark.parametrize("program", ODD_KEYS.values(), ids=ODD_KEYS)
def test_nothing_is_hashed_that_could_end_the_process_or_take_for_ever(tmp_path, program):
    # Each of these went to Python's own hash: a crash of too many levels, or 2**40 steps.
    (tmp_path / "a.pkl").write_bytes(program + b".")
    with pytest.raises(UserError, match=r"a key or member of a set is a (tuple|int) instead of a text or number"):
        read_pickle(tmp_path / "a.pkl")


def test_odd_keys_in_foreign_parts_are_read_by_their_type(tmp_path):
    saved = {"meta": {"sizes": {(1, 2): 3}, "seen": {(1, 2), 5}, "rest": frozenset(["a"])}, "state_dict": {"a": 1}}
    for protocol in (2, 4):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(saved, protocol))
        found = read_pickle(tmp_path / "a.pkl", placeholders_under=("meta",))
        assert found["meta"] == {"sizes": {"tuple": 3}, "seen": {"tuple", 5}, "rest": frozenset(["a"])}


def test_foreign_objects_are_filled_without_a_trace(tmp_path):
    filled = b"cmm\nThing\n)R(K\x01K\x02e}b(K\x01K\x02uK\x03K\x04sK\x05a"
    new = b"cmm\nOther\n)\x81(K\x01\x90"
    program = b"}Vmeta\n(" + filled + new + b"Nls."
    (tmp_path / "a.pkl").write_bytes(program)
    found = read_pickle(tmp_path / "a.pkl", placeholders_under=("meta",))["meta"]
    assert [getattr(item, "name", item) for item in found] == ["mm.Thing", "mm.Other", None]


MANY = 400
BLOCK = 2**20
TEXT = b"X" + struct.pack("<I", BLOCK) + b"a" * BLOCK + b"q\x00"
NUMPY_ARRAYS = (
    b"cnumpy\ndtype\nq\x01X\x02\x00\x00\x00u1\x85Rq\x020"
    + b"c_codecs\nencode\n" + TEXT + b"\x85Rq\x030cnumpy.core.multiarray\n_reconstruct\nq\x040]("
    + (b"h\x04)R(K\x01J" + struct.pack("<i", BLOCK) + b"\x85h\x02\x89h\x03tb") * MANY + b"e"
)  # fmt: skip
MULTIPLIED = {
    "arrays of the same bytes": NUMPY_ARRAYS,
    "encodings of one text": b"]" + TEXT + b"0c_codecs\nencode\nq\x010(" + b"h\x01h\x00\x85R" * MANY + b"e",
    "copies of one list": b"]("
    + b"N" * 20_000
    + b"eq\x000cbuiltins\nlist\nq\x010]("
    + b"h\x01h\x00\x85R" * MANY
    + b"e",
}


@pytest.mark.parametrize("program", MULTIPLIED.values(), ids=MULTIPLIED)
def test_a_small_file_does_not_grow_to_gigabytes(tmp_path, program, monkeypatch):
    monkeypatch.setattr("nuriwake.weights.machine.FREE_BYTES", 2**20)  # the test, too, shall not need them
    (tmp_path / "a.pkl").write_bytes(program + b".")
    with pytest.raises(UserError, match=r"many times more bytes than the file has \(a pickle bomb\?\)"):
        read_pickle(tmp_path / "a.pkl")


def test_a_list_shared_by_many_keys_is_built_once(tmp_path):
    shared = list(range(1000))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"meta": shared, **{str(i): shared for i in range(50)}}))
    found = read_pickle(tmp_path / "a.pkl", placeholders_under=("meta",))
    assert found["0"] == shared
    assert {id(found[str(i)]) for i in range(50)} == {id(found["0"])}


def test_storages_together_claim_no_more_than_the_file_has(tmp_path):
    pad, one = 20_000, b"(X\x07\0\0\0storagectorch\nByteStorage\nV%d\nVcpu\nM\x20\x4eNtQ"
    head = b"".join(pickle.dumps(item, 2) for item in (0x1950A86A20F9469CFC6C, 1001, {}))
    storages = b"".join(one % number for number in range(40))
    (tmp_path / "a.pth").write_bytes(head + b"](" + b"V" + b"a" * pad + b"\n" + storages + b"e.")
    with pytest.raises(UserError, match="claims more bytes than the file has"):
        read_pickle(tmp_path / "a.pth")
    (tmp_path / "a.pth").write_bytes(head + b"N." + b"(" + nested_pairs(40) + b"l.")
    with pytest.raises(UserError, match="its list of arrays is described wrongly"):
        read_pickle(tmp_path / "a.pth")
    other = head[: -len(pickle.dumps(1001, 2)) - len(pickle.dumps({}, 2))] + nested_pairs(40) + b".N.N.N."
    (tmp_path / "a.pth").write_bytes(other)
    with pytest.raises(UserError, match="its format version is a tuple"):
        read_pickle(tmp_path / "a.pth")


def test_a_pickle_of_endless_instructions_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("nuriwake.weights.machine.INSTRUCTION_LIMIT", 1000)
    (tmp_path / "a.pkl").write_bytes(b"]" * 1001 + b".")
    with pytest.raises(UserError, match="more than 1,000 instructions"):
        read_pickle(tmp_path / "a.pkl")


def test_a_large_array_is_a_view_and_a_small_one_of_its_own(tmp_path):
    saved = {"large": np.arange(50_000), "small": np.arange(4), "turned": np.arange(50_000).astype(">i8")}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(saved, 4))
    found = read_pickle(tmp_path / "a.pkl")
    assert [found[name].flags.owndata for name in saved] == [False, False, False]  # all reshaped
    assert [found[name].flags.writeable for name in saved] == [False, True, True]
    assert all(np.array_equal(found[name], saved[name]) and found[name].dtype.isnative for name in saved)


def test_texts_and_objects_in_foreign_parts_do_not_refuse_the_file(tmp_path):
    words, anything = np.array(["a", "bc"]), np.array([{"a": 1}, None], dtype=object)
    saved = {"meta": {"words": words, "word": np.str_("road"), "any": anything, "n": np.int64(3)}, "model": {"a": 1}}
    for protocol in (2, 4, 5):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(saved, protocol))
        found = read_pickle(tmp_path / "a.pkl", placeholders_under=("meta",))
        assert found["model"] == {"a": 1}
        assert found["meta"]["n"] == 3
        assert all(isinstance(found["meta"][name], Placeholder) for name in ("words", "word", "any"))
        for item in (words, words[0], anything):
            (tmp_path / "a.pkl").write_bytes(pickle.dumps({"meta": 1, "model": {"a": item}}, protocol))
            for under in ((), ("meta",)):
                with pytest.raises(UserError, match=r"it has an array of '[UO]\d', which are no numbers"):
                    read_pickle(tmp_path / "a.pkl", placeholders_under=under)


def test_what_lies_in_an_array_of_objects_is_not_run(tmp_path):
    mark = tmp_path / "ran"
    planted = np.array([Malicious(os.system, f"touch {mark}")], dtype=object)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"meta": planted, "model": {}}))
    with pytest.raises(UserError, match=r"it wants the object '\w+\.system'"):
        read_pickle(tmp_path / "a.pkl", placeholders_under=("meta",))
    assert not mark.exists()


def test_storages_of_unknown_kinds(tmp_path):
    """An optimiser's state may hold bytes of no type, and complex numbers in double precision."""
    odd = {"state": torch.zeros(4).untyped_storage(), "exact": torch.zeros(3, dtype=torch.complex128)}
    torch.save({"optimizer": odd, "model": {"a": torch.ones(2)}}, tmp_path / "a.pth")
    found = read_pickle(tmp_path / "a.pth", placeholders_under=("optimizer",))
    assert torch.equal(found["model"]["a"], torch.ones(2))
    assert all(isinstance(item, Placeholder) for item in found["optimizer"].values())
    for item, name in (
        (odd["state"], r"torch\.storage\.UntypedStorage"),
        (odd["exact"], r"torch\.ComplexDoubleStorage"),
    ):
        torch.save({"optimizer": 1, "model": {"a": item}}, tmp_path / "a.pth")
        for under in ((), ("optimizer",)):
            with pytest.raises(UserError, match=f"it wants the object '{name}'"):
                read_pickle(tmp_path / "a.pth", placeholders_under=under)
    torch.save({"optimizer": odd}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"numbers of the kind 'torch\.[\w.]+Storage', which is not known"):
        read_pickle(tmp_path / "a.pth", placeholders_under=("optimizer",))


def test_torchscript_programs_are_told_apart_from_zip_bombs(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"a/{name}", bytes(1000))
    with pytest.raises(UserError, match=r"it is a TorchScript program; save model\.state_dict\(\) instead"):
        read_pickle(tmp_path / "a.pt")
