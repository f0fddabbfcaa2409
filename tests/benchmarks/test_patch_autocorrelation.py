import json

import pytest
import torch

from benchmarks import patch_autocorrelation as bench
from benchmarks import patch_autocorrelation_cuda as bench_cuda
from benchmarks.common import from_command_line
from benchmarks.monitor_overhead import Overhead


def test_the_bench_writes_what_it_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "CASES", bench.CASES[-1:])
    from_command_line("Speed.", bench.run, ["--out", str(tmp_path)])
    found = json.loads((tmp_path / "patch_autocorrelation.json").read_text())
    (case,) = found["cases"]
    assert case["name"] in capsys.readouterr().out
    assert case["error"]["auto"] < 1e-5
    assert case["ratio"]["auto"] == 1
    assert case["rounds"] >= 7
    assert found["machine"]["torch"] == torch.__version__
    table = (tmp_path / "patch_autocorrelation.md").read_text()
    assert f"| {case['name']} | 1 | unfold |" in table


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_there_is_nothing_to_measure(tmp_path):
    with pytest.raises(RuntimeError, match="there is no CUDA device to measure"):
        bench_cuda.run(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_page_of_a_device(tmp_path):
    # a device is not needed to see what the page says of one
    got = {
        "seconds": 0.002,
        "median_seconds": 0.003,
        "extra_bytes": 300,
        "error": 1e-6,
        "fraction_of_matmul_rate": 0.5,
    }
    found = {
        "machine": {"device": "some GPU"},
        "matmul_flops": {"torch.float32": 5e13},
        "calls": 9,
        "cases": [
            {
                "name": "stem",
                "input": "torch.float32",
                "method": "lags",
                "input_bytes": 200,
                "result_bytes": 50,
                "contestants": {
                    "unfold + matmul": got | {"seconds": 0.008},
                    "auto": got,
                    "unfold": None,
                },
            }
        ],
        "monitor": Overhead("cuda", 8, 32, 100, 4, 20, 0.1, 0.104, 0.05, 0.02)._asdict(),
    }
    bench_cuda._write(found, tmp_path)
    assert json.loads((tmp_path / "patch_autocorrelation_cuda.json").read_text()) == found
    page = (tmp_path / "patch_autocorrelation_cuda.md").read_text()
    assert "reached 50 TFLOP/s in float32" in page
    row = "| stem | float32 | auto (lags) | 2.00 | 4.00x | 0.50 | 1e-06 | 1.50 | 0.25 |"
    assert row in page
    assert "| stem | float32 | unfold | out of memory | | | | | |" in page
    assert "4 readings of 20 layers in 100 steps" in page
    assert "+4.00% on the wall" in page


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_device_is_measured(tmp_path):
    found = bench_cuda.run(tmp_path, images=2, monitor_steps=2)
    assert len(found["cases"]) == 2 * len(bench_cuda.IMAGENET)
    for case in found["cases"]:
        assert case["contestants"]["auto"]["error"] < 1e-4
    assert (tmp_path / "patch_autocorrelation_cuda.md").exists()
