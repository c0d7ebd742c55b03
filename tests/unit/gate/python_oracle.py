"""Runs Python programs in processes that end at the first event by which one does more than read what it may.

`python python_oracle.py TABLE`: a JSON file of `modules` to import first, and of `programs`: for each its text,
patterns of the files it may open, and what it is fed. They run in the directory of that file. Prints a JSON list: for
each program what stopped it, or an empty string. For Python 3.8 and later; imports nothing of the project.
"""

import fnmatch
import importlib
import json
import os
import signal
import sys

STOPPED = 97
# Events that read, or that only tell what is going on.
HARMLESS = {
    "open", "import", "compile", "exec", "os.listdir", "os.scandir", "os.walk", "os.fwalk", "glob.glob", "glob.glob/2",
    "pathlib.Path.glob", "pathlib.Path.rglob", "pathlib.Path.walk", "sys._getframe", "sys._getframemodulename",
    "builtins.id", "time.sleep",
    "marshal.loads", "object.__getattr__", "object.__setattr__", "sys.excepthook", "code.__new__",
}  # fmt: skip
BY_IMPORTS = {"exec", "object.__getattr__", "object.__setattr__", "code.__new__", "marshal.loads"}
# The syntax trees of `ast`, and what Python parses to show where a program failed.
PARSERS = (os.sep + "ast.py", os.path.basename(__file__))
LIBRARY = tuple(
    os.path.realpath(place) + os.sep
    for place in {sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), *sys.path}
    if place and os.path.realpath(place) != os.path.realpath(os.path.dirname(__file__))
)


def importing(frame):
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def fault(event, args, allowed):
    """Why an event is more than reading; empty when it is not."""
    if event not in HARMLESS:
        return event
    caller = sys._getframe(2)
    failed = caller.f_code.co_filename.endswith(os.sep + "traceback.py")
    if event in BY_IMPORTS and not importing(caller) and not (failed and event == "object.__getattr__"):
        return event + " by the program"
    if event == "compile" and not importing(caller) and not caller.f_code.co_filename.endswith(PARSERS):
        return "compile by the program"
    if event == "open":
        path, mode, flags = args
        writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        if (isinstance(mode, str) and set(mode) & set("wax+")) or (isinstance(flags, int) and flags & writing):
            return f"opened for writing: {path!r}"
        if path == 0 or importing(caller):
            return ""
        place = os.path.realpath(os.fsdecode(path)) if not isinstance(path, int) else repr(path)
        known = [os.path.realpath(one) for one in allowed]
        # Python looks for the source of what failed under these names.
        known += [os.path.realpath(name) for name in ("<string>", "<unknown>")] + ["/usr/share/zoneinfo/*", __file__]
        if not place.startswith(LIBRARY) and not any(fnmatch.fnmatchcase(place, one) for one in known):
            return f"opened: {path!r}"
    return ""


def run(program, allowed, piped):
    """What stopped a program, in a process of its own."""
    told, tells = os.pipe()
    source, feeds = os.pipe()
    os.write(feeds, piped.encode())
    os.close(feeds)
    child = os.fork()
    if child == 0:
        os.close(told)
        os.dup2(source, 0)
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        signal.alarm(20)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.argv = ["-c", "one", "two"]
        try:
            code = compile(program, "<string>", "exec")
        except SyntaxError:
            os._exit(0)  # of a newer version than this one
        running = [False]

        def hook(event, args):
            if not running[0]:
                return
            running[0] = False
            why = fault(event, args, allowed)
            if why:
                os.write(tells, why.encode("utf-8", "replace")[:4000])
                os._exit(STOPPED)
            running[0] = True

        sys.addaudithook(hook)
        before = set(sys.modules)
        # `exec` itself is an event of this module.
        namespace = {"__name__": "__main__", "__builtins__": __builtins__}
        started = type(lambda: 0)(code, namespace)
        running[0] = True
        try:
            started()
        except BaseException as error:
            if not isinstance(error, SystemExit):
                sys.excepthook(type(error), error, error.__traceback__)
        running[0] = False
        for name in set(sys.modules) - before:
            place = getattr(sys.modules[name], "__file__", None)
            if place and not os.path.realpath(place).startswith(LIBRARY):
                os.write(tells, ("imported " + name).encode())
                os._exit(STOPPED)
        os._exit(0)
    os.close(tells)
    os.close(source)
    found = b""
    while True:
        piece = os.read(told, 4096)
        if not piece:
            break
        found += piece
    os.close(told)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        return ""
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == STOPPED:
        return found.decode("utf-8", "replace")
    return f"ended with status {status!r}"


def main():
    sys.dont_write_bytecode = True
    with open(sys.argv[1]) as file:
        table = json.load(file)
    here = os.path.dirname(os.path.abspath(sys.argv[1]))
    os.chdir(here)
    sys.path[0] = here
    # What the programs need is there already, so that few events are those of an import.
    for name in table["modules"]:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    print(json.dumps([run(*row) for row in table["programs"]]))


if __name__ == "__main__":
    main()
