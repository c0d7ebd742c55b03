"""Paths in the arguments of tools: tricks that make a path something else than it looks, for every tool with one."""

import pytest

from deployments.gate.classify import Classifier
from deployments.ports import GateProfile, JsonValue, Risk

# Written under `coding`, each of these must be held. None of them is work inside the workspace.
WRITES = [
    "../x", "./../x", "src/../../x", "src/./../../x", "a/b/../../../x", "..", ".", "./", "", "/", "//", "src/",
    "src/.", "src/..", "/etc/passwd", "//etc/passwd", "/etc//passwd", "/./etc/passwd", "/workspace/../etc/passwd",
    "/workspace//../etc/x", "/workspace/a/../../etc/x", "/home/ann/x", "/root/x", "/usr/bin/x", "/proc/self/mem",
    "/dev/sda", "~", "~/x", "~/.bashrc", "~root/.bashrc", "~ann/.profile", "~+/../x",
    "src/~/../../x", "$HOME/x", "${HOME}/x", "`id`/x", "$(id)", "file:///etc/passwd", "file:/etc/passwd",
    "C:\\Windows\\x", "C:/Windows/x", "..\\x", "src\\..\\..\\x", "\\\\host\\share", "src/%2e%2e/%2e%2e/x",
    "src/%2E%2E/x", "src%2f..%2f..%2fx", " src/a.py", "src/a.py ", "\tsrc/a.py", "src/a.py\n", "src/a\n/etc/x",
    "src/a\r", "src/\u202ea.py", "src/a\u200b.py", "\ufeffsrc/a.py", "src/\u00a0a", "src/\x07a", "src/\x7fa",
    "\uff0e\uff0e/x", "\u2025/x", "src\uff0f..\uff0f..\uff0fx", "src/\u2024\u2024/x", "\uff5e/x",
    ".git/hooks/pre-commit", ".git/config", ".git", ".git/HEAD", "sub/.git/hooks/x", ".GIT/hooks/pre-commit",
    ".Git/Config", "./.git/hooks/x", "src/../.git/hooks/x", "/workspace/.git/hooks/x", "/workspace/app/.git/config",
    "/workspace/app/.GIT/config", ".github/workflows/ci.yml", ".GitHub/Workflows/ci.yml", ".gitlab-ci.yml",
    ".husky/pre-commit", ".pre-commit-config.yaml", ".vscode/tasks.json", ".idea/x.xml",
    ".devcontainer/devcontainer.json", ".claude/settings.json", ".codex/config.toml", ".cursor/mcp.json",
    ".mcp.json", ".MCP.json", "opencode.json", ".gemini/settings.json", ".envrc", ".npmrc", ".bashrc", ".env",
    ".ENV", ".env.local", "id_rsa", "deploy/id_ed25519", ".ssh/authorized_keys", "a/.ssh/config", ".SSH/config",
    ".aws/credentials", "conf/credentials.json", "server.key", "secret.yaml", ".netrc", ".pypirc", "x" * 5000,
]  # fmt: skip
# Read under `coding`, each of these must not be released: they disclose credentials, or cannot be told.
READS = [
    "~/.ssh/id_rsa", "~/.SSH/id_rsa", "/root/.ssh/id_rsa", "../../root/.ssh/id_rsa", "/etc/shadow",
    "/etc/../etc/shadow", "//etc/shadow", "../../../../etc/shadow", "/workspace/../etc/shadow", ".env", "./.env",
    "src/../.env", ".ENV", "app/.env.production", "~/.aws/credentials", "~/.kube/config", "~/.netrc",
    "/proc/self/environ", "/proc/1/root/etc/shadow", "/var/run/docker.sock", "$HOME/.ssh/id_rsa", "`cat x`",
    "file:///root/.ssh/id_rsa", "..\\..\\root\\x", "\uff0e\uff0e/x", "src/%2e%2e/x", "x\n", " .env", ".env ",
    "\u202e.env", "~root/.ssh/id_rsa", "/etc/ssl/private/x", "server.pem", "a.tfstate", "~/.bash_history", "",
    ".e\u200bnv",
]  # fmt: skip

WRITERS: dict[str, dict[str, JsonValue]] = {
    "Write": {"file_path": "@", "content": "x"},
    "write": {"filePath": "@", "content": "x"},
    "write_file": {"file_path": "@", "content": "x"},
    "Edit": {"file_path": "@", "old_string": "a", "new_string": "b"},
    "edit": {"filePath": "@", "oldString": "a", "newString": "b"},
    "MultiEdit": {"file_path": "@", "edits": [{"old_string": "a", "new_string": "b"}]},
    "replace_in_file": {"path": "@", "diff": "x"},
    "builtin_edit_existing_file": {"filepath": "@", "changes": "x"},
    "NotebookEdit": {"notebook_path": "@", "new_source": "x"},
    "str_replace_editor": {"command": "create", "path": "@", "file_text": "x"},
    "delete_file": {"target_file": "@"},
    "move_file": {"source": "src/a.py", "destination": "@"},
    "apply_patch": {"input": "*** Begin Patch\n*** Add File: @\n+x\n*** End Patch"},
}
READERS: dict[str, dict[str, JsonValue]] = {
    "Read": {"file_path": "@"},
    "read": {"filePath": "@", "limit": 10},
    "read_file": {"absolute_path": "@"},
    "view_image": {"path": "@"},
    "Grep": {"pattern": ".", "path": "@", "output_mode": "content"},
    "str_replace_editor": {"command": "view", "path": "@"},
}


def filled(template: JsonValue, path: str) -> JsonValue:
    if isinstance(template, str):
        return template.replace("@", path)
    if isinstance(template, list):
        return [filled(each, path) for each in template]
    return {name: filled(each, path) for name, each in template.items()} if isinstance(template, dict) else template


def arguments(template: dict[str, JsonValue], path: str) -> dict[str, JsonValue]:
    found = filled(template, path)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("tool", WRITERS)
def test_no_path_outside_the_workspace_is_written(classifier: Classifier, tool: str) -> None:
    for path in ("src/a.py", "/workspace/app/src/a.py", "docs/README.md", "tests/x y.txt", "src/caf\u00e9.py"):
        found = classifier.classify(tool, arguments(WRITERS[tool], path), GateProfile.CODING)
        assert found.outcome == "release", (path, found.reasons)
    for path in WRITES:
        found = classifier.classify(tool, arguments(WRITERS[tool], path), GateProfile.CODING)
        assert found.outcome in {"hold", "forbid"}, (path, found.reasons)
        assert found.risk.rank >= Risk.R2.rank


@pytest.mark.parametrize("tool", READERS)
def test_no_credential_is_read(classifier: Classifier, tool: str) -> None:
    for path in ("src/a.py", "/workspace/app/README.md", "/usr/include/stdio.h", "docs/a b.md"):
        assert classifier.classify(tool, arguments(READERS[tool], path)).outcome == "release", path
    for path in READS:
        found = classifier.classify(tool, arguments(READERS[tool], path), GateProfile.CODING)
        assert found.outcome != "release", (path, found.reasons)


@pytest.mark.parametrize(
    "pattern",
    [".env", ".env*", "{.env,x}", "**/.env", "*.pem", "!*.md,.env", "*.md .env", "**/id_rsa*", "~/.ssh/*", "/etc/shad*",
     "../../**", "{a,{.env,b}}", ".e*", ".[e]nv", "$HOME/*", "**/*secret*", "\u202e*"],
)  # fmt: skip
def test_no_pattern_reads_a_credential(classifier: Classifier, pattern: str) -> None:
    found = classifier.classify("Grep", {"pattern": ".", "glob": pattern, "output_mode": "content"}, GateProfile.CODING)
    assert found.outcome != "release", found.reasons
    found = classifier.classify("read_many_files", {"paths": ["src/a.py", pattern]}, GateProfile.CODING)
    assert found.outcome != "release", found.reasons


@pytest.mark.parametrize("pattern", ["*.py", "**/*.{ts,tsx}", "src/**", "*.md, *.txt", "!*.lock", "*.go !*_test.go"])
def test_ordinary_patterns_are_read(classifier: Classifier, pattern: str) -> None:
    found = classifier.classify("Grep", {"pattern": "x", "glob": pattern})
    assert found.outcome == "release", found.reasons
