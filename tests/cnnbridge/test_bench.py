import json

import pytest
import torch

from cnnbridge import bench


def test_the_bench_writes_what_it_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "CASES", bench.CASES[-1:])
    bench.main([str(tmp_path)])
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
    with pytest.raises(RuntimeError, match="no CUDA device"):
        bench.main([str(tmp_path), "--cuda"])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_device_is_measured(tmp_path):
    found = bench.run_cuda(tmp_path, images=2)
    assert len(found["cases"]) == 2 * len(bench.IMAGENET)
    assert (tmp_path / "patch_autocorrelation_cuda.md").exists()
