"""The measurements on a GPU: tried here on the CPU with a tiny network, one case of each kind."""

import json
from dataclasses import replace

import pytest

from experiments import gpu_cases, gpu_kinds, gpu_session
from jaxlesion.core.errors import InputError


def test_names_of_cases_are_unique_and_every_kind_has_one():
    cases = gpu_cases.cases()
    assert {case.name for case in cases.values()} == set(cases)
    assert {case.kind for case in cases.values()} == set(gpu_kinds.KINDS)


@pytest.mark.parametrize("name", ["train_32_128_float32", "infer_256_224_bfloat16_native", "parity_32_224_bfloat16"])
def test_a_case_writes_a_line_that_the_page_shows(demo, tmp_path, name):
    config = gpu_cases.GpuSession(demo, tmp_path, case=name, repeats=2, shrink=True)
    gpu_session.measure(config)
    (line,) = gpu_session.read(tmp_path)
    assert (line["name"], line["size"]) == (name, 32)
    if "step_ms" in line:
        assert line["least_ms"] <= line["step_ms"] == pytest.approx(1e3 * line["batch"] / line["images_per_second"])
    else:
        assert line["largest_difference_of_logits"]["float32 highest"] < 1e-5  # the same device
    text = gpu_session.page([line], ["some_other_case"])
    assert name in text
    assert "No result: some_other_case." in text


@pytest.mark.extra
def test_a_session_measures_what_is_named_and_says_what_failed(demo, tmp_path):
    config = gpu_cases.GpuSession(
        demo, tmp_path, only=("archive", "epochs_32", "train_32_128_bfloat16_searched"), shrink=True
    )
    text = gpu_session.session(config).read_text()
    found = {one["name"]: one for one in map(json.loads, (tmp_path / "session.jsonl").read_text().splitlines())}
    assert found["archive_1024_128_bfloat16"]["rows"] > 0
    assert found["epochs_32_128_bfloat16"]["first_step_seconds"] > 0
    assert list(found)[-2:] == ["train_32_128_bfloat16_searched", "train_32_128_bfloat16_searched_all"]
    assert "No result" not in text
    with pytest.raises(InputError, match="the cases are train_256_224_bfloat16, "):
        gpu_session.session(replace(config, only=("trian",)))
