"""What the stand-ins refuse: the real packages beside them, images, and places outside a buffer."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import sgl_kernel
import sglang_paste_cpu
import torch

SOURCE = Path(__file__).parents[2] / "packages" / "cpu"


def install(folder: Path, distribution: str, package: str) -> None:
    (folder / f"{distribution}.dist-info").mkdir(parents=True)
    (folder / package).mkdir()
    (folder / package / "__init__.py").touch()


@pytest.mark.parametrize(
    ("distribution", "package"),
    [
        ("sgl_kernel-0.3.1", "sgl_kernel"),
        ("sglang_kernel-0.4.10", "sgl_kernel"),
        ("sglang_kernel_cpu-0.4.10+cpu", "sgl_kernel"),
        ("torchvision-0.28.0", "torchvision"),
    ],
)
def test_a_real_package_is_named(tmp_path: Path, distribution: str, package: str) -> None:
    install(tmp_path, distribution, package)
    name, version = distribution.split("-")
    with pytest.raises(ImportError, match="cannot share an environment with") as refusal:
        sglang_paste_cpu.refuse_beside_real([tmp_path])
    assert f"{name} {version}" in str(refusal.value)


def test_a_package_without_metadata_is_found(tmp_path: Path) -> None:
    (tmp_path / "sgl_kernel").mkdir()
    (tmp_path / "sgl_kernel" / "__init__.py").touch()
    assert sglang_paste_cpu.find_real([tmp_path]) == [str(tmp_path / "sgl_kernel")]


def test_our_own_installation_and_other_packages_are_no_reason(tmp_path: Path) -> None:
    install(tmp_path, "sglang-0.5.23", "sglang")
    install(tmp_path, "torchvision_helper-1.0", "torchvision_helper")
    install(tmp_path, "sglang_paste_cpu-0.1.0", "sgl_kernel")
    (tmp_path / "sglang_paste_cpu.py").touch()
    assert sglang_paste_cpu.find_real([tmp_path, tmp_path / "absent"]) == []


def test_a_real_package_over_ours_is_found(tmp_path: Path) -> None:
    install(tmp_path, "sglang_paste_cpu-0.1.0", "sgl_kernel")
    (tmp_path / "sglang_paste_cpu.py").touch()
    install(tmp_path, "torchvision-0.28.0", "torchvision")
    assert sglang_paste_cpu.find_real([tmp_path]) == ["torchvision 0.28.0"]


@pytest.mark.parametrize("package", ["sgl_kernel", "torchvision"])
def test_an_import_beside_a_real_package_fails_with_one_sentence(tmp_path: Path, package: str) -> None:
    install(tmp_path, "sglang_kernel-0.4.10", "elsewhere")
    code = f"import sys; sys.path.append({str(tmp_path)!r}); import {package}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "cannot share an environment with sglang_kernel 0.4.10" in run.stderr.splitlines()[-1]


def test_the_command_and_the_build_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, str(SOURCE / "sglang_paste_cpu.py")]
    assert subprocess.run(command, check=False).returncode == 0
    install(tmp_path, "torchvision-0.28.0", "torchvision")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(ImportError, match=r"torchvision 0\.28\.0"):
        sglang_paste_cpu.build_wheel(str(tmp_path))


def test_images_are_refused() -> None:
    from torchvision.io import decode_image, decode_jpeg
    from torchvision.transforms import functional
    from torchvision.transforms.v2 import functional as functional2

    for function in (decode_image, decode_jpeg, functional.pil_to_tensor, functional2.resize):
        with pytest.raises(NotImplementedError, match="text-only stand-in"):
            function(b"")


def test_no_kernels_for_amx_are_pretended() -> None:
    assert not hasattr(torch.ops.sgl_kernel, "convert_weight_packed")


class TestBounds:
    def test_rows_of_the_table(self) -> None:
        table, slots = torch.zeros(4, 10, dtype=torch.int32), torch.arange(9)
        for row, start, end in ((4, 0, 1), (-1, 0, 1), (0, 3, 11), (0, 3, 2), (0, -1, 2)):
            spans = torch.tensor([row]), table, torch.tensor([start]), torch.tensor([end]), slots, 10
            with pytest.raises(IndexError, match="outside the 4 x 10 table"):
                sgl_kernel.assign_req_to_token_pool_cpu(*spans)
        with pytest.raises(IndexError, match="10 cache slots are asked for and the list has 9"):
            sgl_kernel.assign_extend_cache_locs_cpu(
                torch.tensor([0]), table, torch.tensor([0]), torch.tensor([10]), slots, 10
            )
        assert not table.any()

    @pytest.mark.parametrize("place", [-1, 5, 2**40])
    def test_rows_of_the_cache(self, place: int) -> None:
        pool = torch.arange(3 * 5 * 8, dtype=torch.uint8).view(3, 5, 8)
        before = pool.clone()
        pointers, strides = torch.tensor([buffer.data_ptr() for buffer in pool]), torch.tensor([8, 8, 8])
        for target, source in (([0, place], [1, 2]), ([0, 1], [place, 2])):
            with pytest.raises(IndexError, match="cache location"):
                sgl_kernel.copy_all_layer_kv_cache_cpu(pointers, strides, torch.tensor(target), torch.tensor(source))
        assert torch.equal(pool, before)

    def test_rotated_ids(self) -> None:
        with pytest.raises(IndexError, match="reach to 6 and there are 5"):
            sgl_kernel.rotate_input_ids_cpu(
                torch.arange(5), torch.tensor([0, 3]), torch.tensor([3, 3]), torch.tensor([1, 2])
            )

    def test_a_sibling_list_that_bites_its_tail_ends(self) -> None:
        predicts, accepted, count = torch.zeros(3, dtype=torch.int32), torch.zeros(1, 3).long(), torch.zeros(1).long()
        tokens, target = torch.tensor([[0, 1, 2]]), torch.tensor([[9, 9, 9]])
        children, siblings = torch.tensor([[1, -1, -1]]), torch.tensor([[-1, 2, 1]])
        places = torch.arange(3)[None]
        sgl_kernel.verify_tree_greedy_cpu(predicts, accepted, count, tokens, places, children, siblings, target)
        assert count.tolist() == [0]
