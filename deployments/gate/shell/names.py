"""The names of variables: which of them are harmless to read, and which a line may set for itself."""

import re


def words_in(*lines: str) -> frozenset[str]:
    """The words of some lines: a set that is long, written shortly."""
    return frozenset(word for line in lines for word in line.split())


# Variables whose value is neither a secret nor code. Everything else may be either.
PLAIN_VARIABLES = words_in(
    "HOME PWD OLDPWD USER LOGNAME HOSTNAME UID EUID PPID SHELL SHLVL TERM LANG LC_ALL TZ",
    "PATH EDITOR PAGER VISUAL TMPDIR",
    "GOPATH GOROOT JAVA_HOME VIRTUAL_ENV CONDA_PREFIX PYTHONPATH KUBECONFIG AWS_PROFILE AWS_REGION AWS_DEFAULT_REGION",
    "RANDOM SECONDS EPOCHSECONDS LINENO BASHPID BASH_VERSION OSTYPE HOSTTYPE MACHTYPE COLUMNS LINES NODE_ENV",
    "CI ? # $ !",
)
# What somebody might keep a credential in, whatever the case of its letters.
PRIVATE = re.compile(r"(?i)pass|pwd|secret|token|key|cred|auth|cookie|session|private")
# Their values are one word of digits, whatever happens.
NUMBERS = frozenset({"?", "#", "$", "!", "UID", "EUID", "PPID", "SHLVL", "RANDOM", "SECONDS", "EPOCHSECONDS", "LINENO"})
# Names that a line may use for itself. Lower case, for what programs and shells obey is upper case, but for these few;
# and the upper-case names that people use for such things.
_SCRATCH = re.compile(r"_?[a-z][a-z0-9_]*")
_OBEYED = words_in("path fpath cdpath manpath mailpath module_path argv prompt status signals histchars auto_resume")
_UPPER_SCRATCH = words_in(
    "NS NAMESPACE POD PODS SVC SERVICE DEPLOY DEPLOYMENT APP NAME NAMES DIR DIRS FILE FILES F D I J K N",
    "X Y A B C P S T",
    "BRANCH TAG SHA COMMIT REF REPO PR LOG LOGS LOGFILE LOGDIR SRC DST ID IDS PID PIDS IMAGE CONTAINER CLUSTER NODE",
    "PORT URL BASE_URL COUNT TOTAL START END LIMIT RESULT RES DATE TODAY NOW PATTERN QUERY ITEM LINE KEY JOB RELEASE",
    "VERSION VER BASE HASH OUT OUTPUT MSG VAR FOO BAR BAZ VAL VALUE ARR ARRAY LIST ITEMS LAST FIRST PREV CURRENT OLD",
    "NEW MAX MIN SUM AVG SIZE LEN TYPE STATUS CODE RC ERRORS TIMESTAMP TS ELAPSED SINCE UNTIL YEAR MONTH DAY",
    "MERGE_BASE CHANGED MODIFIED STAGED NUM NUMBER INDEX IDX PKG PACKAGE MODULE ROOT REPO_ROOT PROJECT CHART IP",
)
# Arguments of a script or function.
ARGUMENT = re.compile(r"[0-9]")


def may_set(name: str) -> bool:
    """True for a variable that a line may set for itself."""
    if name.endswith("_proxy") or name in _OBEYED:
        return False
    return name in _UPPER_SCRATCH or _SCRATCH.fullmatch(name) is not None
