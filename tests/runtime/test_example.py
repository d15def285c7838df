"""The example that the README points to, run as a reader would."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_edge_device_example_tells_the_story_of_its_readme() -> None:
    done = subprocess.run(
        [sys.executable, "examples/edge_device/run.py"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr[-2000:]
    acts = {line[0]: line for line in done.stdout.splitlines() if re.match(r"[1-5]\. ", line)}
    assert "(cloud)" in acts["1"]
    assert "(edge_fallback)" in acts["2"]
    assert "(cloud)" not in acts["2"]
    fetched, full = (int(n) for n in re.search(r"(\d+) bytes fetched instead of (\d+)", acts["4"]).groups())
    assert fetched < full
    assert "patched: digits.onnx" in acts["4"]
    assert "rolled back by the device: digits.edge_device.stable.3, high_latency" in done.stdout
    assert "digits.edge_device.stable.3 is not taken again" in done.stdout
    counted = [
        found.groups()
        for found in re.finditer(r"the cloud has (\d+) of (\d+) predictions(, each once|\.)", done.stdout)
    ]
    assert len(counted) == 2
    assert all(cloud == device for cloud, device, _ in counted)
    assert re.search(r"now: .* by digits\.edge_device\.stable\.2 \(edge\)", done.stdout.partition("rolled back")[2])
