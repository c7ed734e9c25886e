"""What benchmarks say about the kernels of ours and of peers."""

import json
import os
from pathlib import Path

import pytest

from benchmarks.our_kernels import described, our_kernels
from benchmarks.peer_kernels import OneDnn, parse, peer_kernels
from nextchar.models.kernels.instruction_sets import available_levels

VERBOSE = """\
MKL_VERBOSE SGEMM(T,N,65,64,64) 12.03ms
onednn_verbose,v1,info,oneDNN v3.12.0 (commit 80afa71049cd69a3df32adcccb623b12cd7baa22)
onednn_verbose,v1,info,cpu,runtime:OpenMP,nthr:2
onednn_verbose,v1,info,cpu,isa:Intel AVX2
onednn_verbose,v1,info,gpu,runtime:none
onednn_verbose,v1,primitive,info,template:operation,engine,primitive,implementation,prop_kind,exec_time
onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src:f32::blocked:abdec::f0,,1x1x64x4x64,44.5
onednn_verbose,v1,primitive,exec,cpu,rnn,ref,forward_training,src_layer:f32::blocked:abc::f0,,l1,10.0
onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src:f32::blocked:abdec::f0,,1x1x64x4x64,0.5
onednn_verbose,v1,primitive,exec,cpu,rnn,ref,backward,src_layer:f32::blocked:abc::f0,,l1,5.0
onednn_verbose,v1,graph,exec,cpu,100002,matmul_post_ops,,,,,,dnnl_backend,99.0
"""


def test_the_primitive_that_computes_most_is_named() -> None:
    found = parse(VERBOSE.splitlines())
    assert found == OneDnn("3.12.0", "Intel AVX2", "rnn ref", 0.25)
    assert str(found) == "oneDNN 3.12.0, Intel AVX2, mostly rnn ref (25%)"


def test_implementations_without_a_name_and_lines_cut_off_are_read() -> None:
    lines = [
        "onednn_verbose,v1,info,oneDNN v3.7.3 (commit N/A)",
        "onednn_verbose,v1,info,cpu,isa:Intel AVX-512 with AVX512BW, AVX512VL, and AVX512DQ extensions",
        "onednn_verbose,v1,primitive,exec,cpu,gemm_api,,undef,src_f32::blocked:ab:f0,,,8x64:64x256,2.0",
        "onednn_verbose,v1,primitive,exec,cpu,matmul,brg_matmul:avx512_core_amx,undef,src",
        "onednn_verbose,v1,primitive,exec,cpu",
    ]
    found = parse(lines)
    assert found and found.main_primitive == "gemm_api"
    assert found.isa == "Intel AVX-512 with AVX512BW, AVX512VL, and AVX512DQ extensions"
    assert str(parse(lines[:2])) == f"oneDNN 3.7.3, {found.isa}"


def test_a_library_without_onednn_prints_nothing() -> None:
    assert parse(["rounds: 2", ""]) is None


def test_a_peer_that_cannot_run_says_so_in_its_line() -> None:
    said = peer_kernels("sgemm", {"size": "many"}, {})
    assert said.startswith("cannot run here: TypeError: ")


def test_a_peer_that_a_signal_kills_names_the_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keras.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")
    said = peer_kernels("step_loop", {"library": "keras", "layers": 1, "units": 5}, {})
    assert said == "cannot run here: its process was killed by SIGILL"


def test_our_kernels_are_those_of_the_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTCHAR_DATA_DIR", str(tmp_path))
    lowest = available_levels()[-1]
    found = our_kernels({"NEXTCHAR_ISA": lowest})
    json.dumps(found)
    assert found["level"] == lowest
    assert Path(found["folder"]).is_relative_to(tmp_path)
    assert found["chosen"]["int8"] == "generic"
    first, *products = described(found)
    assert first == f"instruction set: {lowest}"
    assert products[0].startswith("nextchar, int8 products: generic (measured: generic ")
    assert products[0].endswith(" G/s with 16 rows)")


def test_a_variant_that_failed_and_a_product_without_variants_are_lines() -> None:
    failed = {"product": "int8", "variant": "amx", "failure": "it is wrong", "giga_per_s": {}}
    slow = {"product": "int8", "variant": "avx2", "failure": "", "giga_per_s": {"1": 47.7, "16": 59.9}}
    found = {
        "level": "amx",
        "chosen": {"int8": "avx2", "bfloat16": None},
        "measurements": [failed, slow],
        "folder": None,
    }
    measured = "amx failed: it is wrong; avx2 48 G/s with 1 rows, 60 G/s with 16 rows"
    assert described(found) == [
        "instruction set: amx",
        f"nextchar, int8 products: avx2 (measured: {measured})",
        "nextchar, bfloat16 products: none on this processor",
    ]
