"""Reading a checkpoint's files: the real formats, and one line for each kind of damage."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from trajectory_folders import neox, tensors

from circuit_econ.errors import CheckpointError
from circuit_econ.trajectory import tensors as reading_tensors
from circuit_econ.trajectory.boundary import read_json
from circuit_econ.trajectory.files import read_folder, weight_files
from circuit_econ.trajectory.tensors import read_tensors

AGAIN = "copy, download or save it again"


class Payload:
    """A pickle of it asks for a call that creates a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def said(call: Callable[[], object]) -> str:
    with pytest.raises(CheckpointError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return message


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert all(found[name].dtype == wanted[name].dtype for name in wanted)


def published() -> dict[str, torch.Tensor]:
    """The model's tensors by the names in published checkpoints."""
    named = neox().state_dict()
    return {name.replace("lm_head", "embed_out"): tensor for name, tensor in named.items()}


def test_a_saved_model_comes_back(tmp_path: Path) -> None:
    neox().save_pretrained(tmp_path)
    assert_same(read_folder(tmp_path), published())


def test_a_sharded_model_comes_back(tmp_path: Path) -> None:
    neox().save_pretrained(tmp_path, max_shard_size="3KB")
    assert len(weight_files(tmp_path)) > 1
    assert_same(read_folder(tmp_path), published())


def test_a_pickled_state_dict_comes_back(tmp_path: Path) -> None:
    torch.save(neox().state_dict(), tmp_path / "pytorch_model.bin")
    assert_same(read_folder(tmp_path), dict(neox().state_dict()))


def test_sharded_pickles_come_back(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": torch.zeros(3)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    shards = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    assert_same(read_folder(tmp_path), {"a": torch.ones(2), "b": torch.zeros(3)})


def test_safetensors_come_before_pickles(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_text("not opened")
    (tmp_path / "optimizer.pt").write_text("not opened")
    assert_same(read_folder(tmp_path), {"a": torch.ones(2)})


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_files_new_and_old(tmp_path: Path, wrapper: str | None, zipped: bool) -> None:
    content = tensors() if wrapper is None else {wrapper: tensors(), "optimizer": {"lr": 1.0}}
    path = tmp_path / "step_1.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert_same(read_tensors(path), tensors())


def test_parameters_lose_their_gradients(tmp_path: Path) -> None:
    torch.save({"w": nn.Parameter(torch.ones(2))}, tmp_path / "a.pt")
    assert not read_tensors(tmp_path / "a.pt")["w"].requires_grad


# Pickles with code


@pytest.mark.parametrize("zipped", [True, False, None])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, zipped: bool | None) -> None:
    mark, path = tmp_path / "executed", tmp_path / "pytorch_model.bin"
    content = {"w": torch.ones(2), "x": Payload(mark)}
    if zipped is None:
        path.write_bytes(pickle.dumps(content["x"], protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert said(lambda: read_folder(tmp_path)) == (
        f"{path} is a pickle that could run code (it asks for {os.mkdir.__module__}.mkdir) and is "
        "refused, nothing in it was run; save the model's state_dict() alone, best as safetensors"
    )
    assert not mark.exists()


def test_the_payload_bites(tmp_path: Path) -> None:
    """Unpickled without care it does create the folder."""
    pickle.loads(pickle.dumps(Payload(tmp_path / "executed"), protocol=2))
    assert (tmp_path / "executed").exists()


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "step_1.pt")
    assert said(lambda: read_tensors(tmp_path / "step_1.pt")) == (
        f"{tmp_path / 'step_1.pt'} is a pickle that could run code (it asks for "
        "torch.nn.modules.linear.Linear) and is refused, nothing in it was run; save the model's "
        "state_dict() alone, best as safetensors"
    )


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
def test_an_unusual_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "step_1.pt").write_bytes(pickle.dumps(Payload(tmp_path / "executed"), protocol=4))
    assert "(it is damaged or no tensors)" in said(lambda: read_tensors(tmp_path / "step_1.pt"))
    assert not (tmp_path / "executed").exists()


# Damage


@pytest.mark.parametrize(
    ("keep", "reason"),
    [
        (0, "Error while deserializing header: header too small"),
        (20, "Error while deserializing header: invalid header length"),
        (-8, "Error while deserializing header: incomplete metadata, file not fully covered"),
    ],
)
def test_truncated_safetensors(tmp_path: Path, keep: int, reason: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file(tensors(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    size = len(whole[:keep])
    assert said(lambda: read_folder(tmp_path)) == (
        f"{path} is truncated or no safetensors file ({size} bytes: SafetensorError: {reason}); "
        f"{AGAIN}"
    )


def test_a_safetensors_file_that_is_something_else(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 100\n")
    assert said(lambda: read_folder(tmp_path)) == (
        f"{path} is truncated or no safetensors file (65 bytes: SafetensorError: Error while "
        f"deserializing header: header too large); {AGAIN}"
    )


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_pytorch_files(tmp_path: Path, zipped: bool, share: float) -> None:
    path = tmp_path / "step_1.pt"
    torch.save(tensors(), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    message = said(lambda: read_tensors(path))
    assert message.startswith(f"{path} is truncated or no PyTorch file ({path.stat().st_size} byt")
    assert message.endswith(f"; {AGAIN}")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (torch.ones(2), "holds a Tensor, not a dictionary of tensors"),
        ([torch.ones(2)], "holds a list, not a dictionary of tensors"),
        ({}, "holds nothing, not a dictionary of tensors"),
        ({"w": torch.ones(2), "lr": 0.1}, "is not a dictionary of tensors: 'lr' holds a float"),
        (
            {"model": {"w": torch.ones(2, 2), "lr": 0.1}},
            "is not a dictionary of tensors: model['lr'] holds a float",
        ),
        (
            {"rng": {"cpu": torch.ones(2)}},
            "is not a model's dictionary of tensors: rng has no matrix",
        ),
        ({3: torch.ones(2)}, "is not a dictionary of tensors: 3 holds a Tensor"),
    ],
)
def test_what_is_no_dictionary_of_tensors(tmp_path: Path, content: object, named: str) -> None:
    path = tmp_path / "step_1.pt"
    torch.save(content, path)
    message = said(lambda: read_tensors(path))
    assert message == f"{path} {named}; save the model's state_dict()"


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_sparse_and_meta_tensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "step_1.pt"
    torch.save({"w": torch.eye(2).to_sparse()}, path)
    assert said(lambda: read_tensors(path)) == (
        f"{path}: w is not a plain dense tensor (torch.sparse_coo, torch.float32, cpu); "
        "save it dense and unquantised"
    )
    torch.save({"w": torch.nested.nested_tensor([torch.ones(2)])}, path)
    assert "w is not a plain dense tensor (" in said(lambda: read_tensors(path))
    torch.save({"w": torch.ones(2, device="meta")}, path)
    assert "w is not a plain dense tensor (torch.strided, torch.float32, meta)" in said(
        lambda: read_tensors(path)
    )


def test_a_changed_byte_in_a_zip_is_noticed(tmp_path: Path) -> None:
    """torch's own reader checks no sums: it would give another number."""
    path = tmp_path / "step_1.pt"
    torch.save({"w": torch.arange(64.0)}, path)
    whole = bytearray(path.read_bytes())
    place = whole.index(torch.arange(64.0).numpy().tobytes()) + 18
    whole[place] ^= 64
    path.write_bytes(whole)
    assert not torch.equal(torch.load(path)["w"], torch.arange(64.0))
    assert said(lambda: read_tensors(path)) == (
        f"{path} is truncated or no PyTorch file ({len(whole)} bytes: ValueError: the checksum of "
        f"entry step_1/data/0 is another); {AGAIN}"
    )


def test_an_archive_that_unfolds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "step_1.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("step_1/data.pkl", bytes(1 << 20))
    assert "(ValueError: entries are compressed or overlap)" in said(
        lambda: read_tensors(path)
    ).replace(f"{path.stat().st_size} bytes: ", "")


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "step_1.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("step_1/constants.pkl", b"")
    assert said(lambda: read_tensors(path)) == (
        f"{path} is a TorchScript archive, which holds code, and is refused; save the model's "
        "state_dict() alone, best as safetensors"
    )


class Claim:
    """A tensor that claims another shape than its storage holds."""

    def __init__(self, size: int, stride: int) -> None:
        self.size, self.stride = size, stride

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        storage = torch.ones(4).untyped_storage()
        typed = torch.storage.TypedStorage(
            wrap_storage=storage, dtype=torch.float32, _internal=True
        )
        return torch._utils._rebuild_tensor_v2, (
            typed, 0, (self.size,), (self.stride,), False, OrderedDict(),
        )  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("size", [5, 10**12])
def test_a_tensor_is_no_more_than_its_storage(tmp_path: Path, zipped: bool, size: int) -> None:
    path = tmp_path / "step_1.pt"
    torch.save({"w": Claim(size, 0)}, path, _use_new_zipfile_serialization=zipped)
    assert said(lambda: read_tensors(path)) == (
        f"{path}: w claims {4 * size} bytes, and the file holds 16 of it; save it contiguous"
    )
    torch.save({"w": Claim(size, 1)}, path, _use_new_zipfile_serialization=zipped)
    assert said(lambda: read_tensors(path)).startswith(f"{path} is truncated or no PyTorch file (")
    torch.save({"w": Claim(4, 1)}, path, _use_new_zipfile_serialization=zipped)
    assert_same(read_tensors(path), {"w": torch.ones(4)})


def test_an_enormous_header_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write((50 << 20).to_bytes(8, "little"))
        file.truncate(60 << 20)
    assert said(lambda: read_tensors(path)) == (
        f"{path}: its header has 52428800 bytes, and at most 16777216 are read; {AGAIN}"
    )


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_of_nothing_but_containers(
    tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte each, and 64 in memory."""
    monkeypatch.setattr(reading_tensors, "PICKLE_PARTS", 20_000)
    path = tmp_path / "step_1.pt"
    bomb = b"\x80\x02]" + b"}" * (17 << 20) + b"."
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("step_1/data.pkl", bomb)
    else:
        path.write_bytes(bomb)
    assert "(ValueError: it lists more than any model has tensors)" in said(
        lambda: read_tensors(path)
    ).replace(f"{path.stat().st_size} bytes: ", "")


@pytest.mark.parametrize("name", ["", "a\nb", "a\0b", "x" * 501])
def test_names_of_tensors_can_be_printed(tmp_path: Path, name: str) -> None:
    torch.save({name: torch.ones(2)}, tmp_path / "step_1.pt")
    assert "is no name of a tensor" in said(lambda: read_tensors(tmp_path / "step_1.pt"))


def test_whatever_a_library_raises_is_the_files_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PanicException(BaseException):
        """As compiled code raises it."""

    def panics(*_: object, **__: object) -> object:
        raise PanicException("index out of bounds\nand more")

    path = tmp_path / "model.safetensors"
    save_file(tensors(), path)
    monkeypatch.setattr(reading_tensors, "load_file", panics)
    assert "bytes: PanicException: index out of bounds); copy" in said(lambda: read_tensors(path))

    def stops(*_: object, **__: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(reading_tensors, "load_file", stops)
    with pytest.raises(KeyboardInterrupt):
        read_tensors(path)


# Dictionaries inside


MATRIX = {"w": torch.ones(2, 3), "b": torch.ones(3)}


@pytest.mark.parametrize(
    ("place", "content"),
    [
        ("model_state_dict", {"model_state_dict": MATRIX, "epoch": 3}),
        ("model_state", {"model_state": MATRIX}),
        ("params", {"params": MATRIX, "rng": {"cpu": torch.ones(3)}}),
        ("train.model", {"train": {"model": MATRIX, "seed": 1}, "config": {"width": 3}}),
        (
            "state_dict",
            {
                "state_dict": MATRIX,
                "optimizer_states": [{"state": {0: MATRIX}, "param_groups": []}],
                "optimizer": {"exp_avg": MATRIX},
                "opt": {"state": {"w": MATRIX}, "param_groups": []},
                "hyper_parameters": {"lr": 0.1},
            },
        ),
        ("same", {"same": MATRIX, "as": MATRIX}),
    ],
)
def test_the_only_dictionary_of_tensors_is_read(
    tmp_path: Path, place: str, content: dict[str, object]
) -> None:
    lines: list[str] = []
    torch.save(content, tmp_path / "a.ckpt")
    assert_same(read_tensors(tmp_path / "a.ckpt", lines.append), MATRIX)
    assert lines == [f"tensors are read from {place} of each file; what is beside it is left out"]


def test_two_dictionaries_of_tensors_are_named(tmp_path: Path) -> None:
    other = {"w": torch.zeros(2, 3)}
    path = tmp_path / "a.pt"
    torch.save({"model": MATRIX, "train": {"ema": other}, "third": {"w": other["w"] + 1}}, path)
    assert said(lambda: read_tensors(path)) == (
        f"{path} holds several dictionaries of tensors (model, third and 1 more); save the one to "
        "measure alone"
    )


def test_a_dictionary_that_holds_itself(tmp_path: Path) -> None:
    content: dict[str, object] = {"model": MATRIX}
    content["again"] = content
    torch.save(content, tmp_path / "a.pt")
    assert_same(read_tensors(tmp_path / "a.pt"), MATRIX)


# Adapters


def test_an_adapter_is_named(tmp_path: Path) -> None:
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "owner/base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    save_file(tensors(), tmp_path / "adapter_model.safetensors")
    assert said(lambda: read_folder(tmp_path)) == (
        f"{tmp_path} holds an adapter alone (adapter_config.json of owner/base); merge it into its "
        "base model (peft: merge_and_unload(), then save_pretrained()) and open what that saves"
    )
    save_file(tensors(), tmp_path / "model.safetensors")
    assert said(lambda: read_folder(tmp_path)) == (
        f"{tmp_path} holds an adapter beside whole weights (adapter_config.json of owner/base); "
        "move one of the two elsewhere"
    )


# Shards and indices


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_file({name: torch.ones(2), "w": torch.ones(2)}, tmp_path / f"{name}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    shards = {"one": "one.safetensors", "two": "two.safetensors", "w": "one.safetensors"}
    index.write_text(json.dumps({"weight_map": shards}))
    assert said(lambda: read_folder(tmp_path)) == (
        f"{tmp_path / 'two.safetensors'} holds w, and so does another shard; {AGAIN}"
    )


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    neox().save_pretrained(tmp_path, max_shard_size="3KB")
    gone = weight_files(tmp_path)[1]
    gone.unlink()
    assert said(lambda: read_folder(tmp_path)) == (
        f"{tmp_path}: shard {gone.name} is missing, but model.safetensors.index.json lists it; "
        f"{AGAIN}"
    )


def test_a_tensor_that_no_shard_holds_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys("abc", "one.safetensors")}))
    assert said(lambda: read_folder(tmp_path)) == (
        f"{tmp_path}: model.safetensors.index.json lists b, which no shard holds (2 such tensors); "
        f"{AGAIN}"
    )


@pytest.mark.parametrize(
    "weight_map",
    [None, ["a"], {}, {"a": "../one.safetensors"}, {"a": 1}, {"a": "b\0"}, {"a": "b" * 256}],
)
def test_an_index_stays_in_its_folder(tmp_path: Path, weight_map: object) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    save_file({"a": torch.ones(2)}, tmp_path.parent / "one.safetensors")
    assert said(lambda: read_folder(tmp_path)) == (
        f"{index} has no weight_map from tensors to names of files beside it; {AGAIN}"
    )


def test_no_weights(tmp_path: Path) -> None:
    assert said(lambda: read_folder(tmp_path)) == (
        f"{tmp_path} has no weights; one of model.safetensors, model.safetensors.index.json, "
        "pytorch_model.bin, pytorch_model.bin.index.json must lie there"
    )


# config.json


def test_json_that_is_missing_or_not_json(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    assert said(lambda: read_json(path)) == (
        f"{path} is missing; put the one saved with the weights there"
    )
    path.write_text("{'model_type': 'gpt2'}")
    assert said(lambda: read_json(path)) == (
        f"{path} is not JSON (JSONDecodeError: Expecting property name enclosed in double quotes: "
        f"line 1 column 2 (char 1)); {AGAIN}"
    )
    path.write_bytes(b"\xff\xfe")
    assert said(lambda: read_json(path)).startswith(
        f"{path} is not JSON (UnicodeDecodeError: 'utf-8' codec can't"
    )
    path.write_text("[1]")
    assert said(lambda: read_json(path)) == f"{path} holds a JSON list, not an object; {AGAIN}"


def test_files_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: the user of a test run may be allowed everything."""

    def forbidden(*_: object, **__: object) -> object:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "a.safetensors").touch()
    (tmp_path / "a.pt").touch()
    monkeypatch.setattr(Path, "open", forbidden)
    for path, read in [
        (tmp_path / "config.json", read_json),
        (tmp_path / "a.safetensors", read_tensors),
        (tmp_path / "a.pt", read_tensors),
    ]:
        message = said(lambda read=read, path=path: read(path))
        assert message == f"{path} cannot be read (Permission denied); check its permissions"
