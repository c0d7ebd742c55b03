"""What no bundle may say: settings under which the judge's reading of a command would no longer be true.

The judge presumes that programs come from places only an administrator writes to, that variables which name code are
never set, and that the places a redirect may always write to hold nothing. These laws hold for every bundle, whatever
it extends; who needs another answer changes the judge.
"""

import re
from collections.abc import Callable
from pathlib import PurePosixPath

from deployments.gate.specs import BundleFile, Target
from deployments.gate.tables import SHIPPED_B, Base, Outcome, Standing
from deployments.ports import GateProfile

# Addresses at which clouds hand out the credentials of a machine. No approval releases a call to them.
FORBIDDEN_HOSTS = ("169.254.169.254", "169.254.170.2", "metadata.google.internal", "fd00:ec2::254", "100.100.100.200")

# Variables that name a program, a library, a start-up file, or where any of these is looked for.
_CODE = re.compile(
    r"PATH|IFS|ENV|BASH_ENV|BASH_FUNC.*|SHELLOPTS|BASHOPTS|PROMPT_COMMAND|PS[0-4]|CDPATH|GLOBIGNORE|SHELL|HOME"
    r"|LD_.*|DYLD_.*|GCONV_PATH|LOCPATH|NLSPATH|(.*_)?(PAGER|EDITOR|BROWSER)|VISUAL|LESSOPEN|LESSCLOSE|LESSKEY.*"
    r"|PYTHON(PATH|HOME|STARTUP|BREAKPOINT|INSPECT|WARNINGS|USERBASE|PLATLIBDIR)|PERL5.*|PERLLIB|RUBY(OPT|LIB)"
    r"|NODE_(OPTIONS|PATH)|_?JAVA_(TOOL_)?OPTIONS|CLASSPATH|GIT_(SSH|SSH_COMMAND|EXTERNAL_DIFF|EXEC_PATH|DIR|WORK_TREE"
    r"|CONFIG.*|ASKPASS|PROXY_COMMAND|TEMPLATE_DIR|SEQUENCE_EDITOR)|SSH_ASKPASS.*|SUDO_ASKPASS|KUBECONFIG|.*_PROXY"
    r"|DOCKER_(HOST|CONFIG|CONTEXT)|AWS_(PROFILE|CONFIG_FILE|SHARED_CREDENTIALS_FILE|ENDPOINT_URL.*)",
    re.IGNORECASE,
)
_WRITABLE = ("/tmp", "/var/tmp", "/dev", "/proc", "/run", "/home", "/root", "/workspace", "/mnt", "/media", "/srv")  # noqa: S108
_SINK = re.compile(r"/dev/(null|stdout|stderr|tty)")


def floor_faults(spec: BundleFile, target: Callable[[str, str], Target | None]) -> list[str]:
    """Every such sentence of a bundle; `target` looks a name up in it."""
    faults = [
        f"environment: a command that sets {name} chooses what runs, so no bundle may allow it"
        for name in spec.environment
        if "=" not in name and _CODE.fullmatch(name)
    ]
    for directory in spec.program_directories:
        path = PurePosixPath(directory)
        if not path.is_absolute() or ".." in path.parts or str(path) != directory or directory == "/":
            faults.append(f"program_directories: '{directory}' is no absolute, tidy path")
        elif any(path.is_relative_to(each) for each in _WRITABLE):
            faults.append(f"program_directories: others than an administrator may write to '{directory}'")
    faults += [f"sinks: '{sink}' may hold something" for sink in spec.sinks if not _SINK.fullmatch(sink)]
    for host in FORBIDDEN_HOSTS:
        found = target("host", host)
        if found is None or found.class_of is None or found.class_of.nonprod is not Base.FORBIDDEN:
            faults.append(f"the host {host}, which hands out credentials, must be registered as FORBIDDEN")
    faults += [
        f"profile {name}: its calls are judged by the table alone, so it may not have a standing plan"
        for name, profile in spec.profiles.items()
        if profile.standing is not None and SHIPPED_B[GateProfile(name), Standing.COVERED] is not Outcome.RELEASE
    ]
    return faults
