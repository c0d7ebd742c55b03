"""What a home keeps out of sight: sensitive under every name that it has, but for what is listed as harmless."""

import pytest

from deployments.gate.policy import Bundle
from tests.gate.together import classify_each

HIDDEN = [
    "cat ~/.zq7",
    "cat ~/.zq7/a/b.json",
    "cat ~/.config/zq7/a.toml",
    "cat ~/.local/share/zq7/a.json",
    "cat ~ann/.zq7/a",
    "cat /home/ann/.zq7/a",
    "cat /Users/ann/.zq7/a",
    "cat ../../home/ann/.zq7/a",
    "cat /home/*/.zq7/a",
    "cat ~/work/../.zq7",
    "cd && cat .zq7/a",
    "cd /home/ann; cat .zq7/a",
    "cd ~/.zq7 && cat a",
    "cd ~/work && cat ../.zq7",
    "grep -r key ~/.config",
    "grep -r key /home/ann/.config",
    "cat < ~/.zq7",
    "find ~/.zq7 -type f | xargs cat",
    "git diff --no-index /dev/null ~/.zq7",
    "jq . ~/.cache/../.zq7",
    "cd ~ && yq .zq7",
    "yq .env",
    "yq e .env a.yml",
    "yq .env.local a.yml",
]
OPEN = [
    "cat ~/.vimrc ~/.inputrc",
    "cat /home/ann/.vimrc",
    "cat ~/.cache/pip/log",
    "cat ~/.npm/_logs/a-debug-0.log",
    "cat /home/ann/.cargo/registry/src/x/lib.rs",
    "grep -rn def ~/.local/lib/python3.12/site-packages/x",
    "cat ~/.codex/AGENTS.md",
    "ls -la ~/.zq7 /home/ann/.zq7",
    "cat ~/work/a.py",
    "cat ~/work/.prettierrc",
    "cat /home/ann/work/.eslintrc.json",
    "cat .zq7/a",
    "yq .spec.env a.yml",
    "yq '.jobs.build.env' a.yml",
    "yq -o=json a.yml",
]


def test_what_is_out_of_sight_is_not_released(bundle: Bundle) -> None:
    found = dict(zip(HIDDEN, classify_each(bundle, HIDDEN), strict=True))
    assert [line for line, one in found.items() if one.outcome == "release"] == []


def test_what_is_listed_and_what_is_work_is_released(bundle: Bundle) -> None:
    found = dict(zip(OPEN, classify_each(bundle, OPEN), strict=True))
    assert [line for line, one in found.items() if one.outcome != "release"] == []


@pytest.mark.parametrize("line", ["yq .x.yq a.yml", "yq x.yq a.yml", "yq e x.yq"])
def test_a_filter_of_yq_from_a_file_is_held(bundle: Bundle, line: str) -> None:
    assert [one.outcome for one in classify_each(bundle, [line])] == ["hold"]
