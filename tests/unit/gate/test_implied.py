"""What a command reads without naming it: where it runs, what a pattern picks, what a word stands for."""

import pytest

from deployments.gate import globs
from deployments.gate.addresses import spellings
from deployments.gate.classify import Classifier
from deployments.gate.grammar import BundleError
from deployments.gate.policy import Bundle
from deployments.gate.shell.atoms import Unprovable
from deployments.gate.shell.reader import ShellReader
from deployments.gate.specs import compile_flag
from deployments.ports import GateProfile, Risk

READER = ShellReader(20.0)


@pytest.fixture(scope="module")
def classifier(bundle: Bundle) -> Classifier:
    """The shared bundle; the lines of this module are read by few processes of the parser, not one each."""
    reader = ShellReader(timeout_s=20.0)
    reader.learn((*IMPLIED, *NEAR_MISSES, *HELD_SUBSTITUTIONS))
    return Classifier(bundle, reader)


def held(classifier: Classifier, line: str, profile: GateProfile = GateProfile.OPS) -> bool:
    return classifier.classify("shell", {"command": line}, profile).outcome != "release"


IMPLIED = r"""
cd ~/.ssh && grep -r KEY
cd /root/.ssh && rg KEY
cd ~/.aws; ag key
cd ~/.aws; ack key
cd ~/.ssh && grep -R KEY
cd ~/.ssh && grep --recursive KEY
cd ~/.ssh && grep -rn -e KEY
cd ~/.ssh && grep -d recurse KEY
cd ~/.ssh && egrep -ri key
cd ~/.ssh; rg -e KEY
cd ~/.ssh; rg --files
cd ~; grep -r KEY
cd ..; grep -r KEY
cd /; rg KEY
pushd ~/.ssh && rg KEY
(cd ~/.aws; grep -r key)
cd $(cat where); rg KEY
cd - && grep -r KEY
cd ~/.ssh && timeout 9 rg KEY
cd ~/.ssh; rg $HOME
cd ~/.ssh; x=; rg KEY $x
cd ~/.ssh; ls | xargs rg
cd ~/.ssh; rg KEY > /dev/null
cd ~/.ssh; echo x; rg KEY
cd /etc; git grep --no-index root
git -C ~/.ssh grep KEY
cd ~/.password-store; git log -p
cd ~/.ssh; git diff
cd ~/.aws; cat *
(cd ~/.ssh; cat *)
cd ~/.ssh && rg KEY .
cd ~/.ssh; ls | rg KEY < /dev/null
cd ~/.ssh; ls | rg KEY 0>&1
cd ~/.ssh; ls | rg --files
cd ~/.ssh; ls | grep -r KEY
cd ~/.ssh; ls | (rg KEY)
ls *.md | xargs cat < list
grep -r '' --include=.env .
grep -r '' --include '.env' .
grep -rh x --include='*.pem'
rg -g .env ''
rg --glob '.env*' KEY
rg --iglob .ENV ''
rg -g '*.tfvars' x
rg -g '**/.env' x
rg -g '/.env' x
rg -g 'id_rsa' ''
ag -G '\.env' x
ag -G '(env|pem)$' x
ag -G 'id_[re]' x
rg -g "$(cat x)" y
grep -r x --include=.e*
fd -e pem | xargs cat
fd -epem | xargs cat
fd --extension=pem | xargs head
fd '\.env$' -H | xargs cat
fd .env | xargs cat
find . -name .env -exec cat {} +
find . -regex '.*/\.env' -exec cat {} +
git grep KEY -- '*.env'
strings @/etc/shadow
strings @opts
strings "$(cat x)"
strings *
strings ?x
7z l @list
7z l a.7z @/etc/shadow
jar tf a.jar @/etc/shadow
jar tf @x
unrar l a.rar @x
ruff check --no-fix @opts
clang-format -n @opts
scc @opts
promtool check rules @/etc/shadow
promtool query instant http://localhost:9090 @x
amtool alert query @x
amtool alert @x
cat @/etc/shadow
du "$(printf %s --files0-from=.env)"
wc "$(cat names)"
wc -l $(cat names)
cat names | xargs wc -l
jq . @.env
nm @/etc/shadow
javac @args
java @args
gcc @args
ld @x
ar t @x
less +'!id' f
more +x f
vim +'!id' f
vi +:!id f
nano +x f
sysctl -n "/../../.env"
sysctl -n ../../.env
sysctl -n net/../../.env
sysctl /etc/passwd
sysctl net/.?/.?/x
curl http://localhost/[1-100]
curl 'http://localhost/{a,b}'
curl 'http://localhost/?x=[1-9]'
curl 'http://local[h]ost/'
""".strip("\n").split("\n")


@pytest.mark.parametrize("line", IMPLIED)
def test_what_is_read_without_being_named(classifier: Classifier, line: str) -> None:
    assert held(classifier, line)


NEAR_MISSES = r"""
grep -r TODO
wc -l *
du -sh *
find . -name '*.go' | xargs wc -l
git ls-files | xargs wc -l
grep -rn TODO src
rg TODO
cd src && rg TODO
cd src && grep -rn TODO
cd /tmp && grep -r x
cd ~/.ssh; ls | rg KEY
cat ~/notes.txt | rg x
git grep TODO
cd src; git diff
git log -p -3
cd /etc && ls | ag x
grep -rn TODO --include='*.py' src
rg -g '*.{ts,tsx}' x
rg -g '!.env' x
rg --hidden -g '!.git' x
rg -g 'test_*' x
grep -r --include='*' x .
grep -rn --include=Makefile x .
ag -G '\.go$' x
fd '\.py$' | xargs wc -l
fd -e py | xargs grep x
fd .env
find . -name .env
fd main src
strings /usr/bin/ls
7z l a.7z
jar tf a.jar
ruff check --no-fix src
npm ls @aws-sdk/credential-providers
git show @~1
git log @{u}..
git diff @
tail +5 f
sort -t@ -k2 f
promtool query instant http://localhost:9090 'up{job="x"}'
amtool alert query severity=page
sysctl net.ipv4.ip_forward
sysctl net.ipv4.conf.eth0/100.forwarding
sysctl -n vm.swappiness
curl http://localhost/{a,b}
curl -g 'localhost:9090/api/v1/series?match[]=up'
curl --globoff 'http://localhost/[x]'
""".strip("\n").split("\n")


@pytest.mark.parametrize("line", NEAR_MISSES)
def test_near_misses_flow(classifier: Classifier, line: str) -> None:
    found = classifier.classify("shell", {"command": line})
    assert found.outcome == "release", found.reasons


@pytest.mark.parametrize(
    "line",
    [
        "pytest @/etc/shadow",
        "pytest @opts",
        "python3 -m pytest @opts",
        "mypy @opts",
        "tsc @opts",
        "tsc -p . @opts",
        "dotnet build @x",
        "ruff check @opts",
        "pylint @opts",
        "clang-tidy @opts",
    ],
)
def test_arguments_from_a_file_are_not_work_in_the_workspace(classifier: Classifier, line: str) -> None:
    assert held(classifier, line, GateProfile.CODING)
    assert not held(classifier, line.replace("@", ""), GateProfile.CODING) or "shadow" in line


@pytest.mark.parametrize(
    "address",
    [
        "2852039166",
        "0xa9fea9fe",
        "0xA9.0xFE.0xA9.0xFE",
        "0251.0376.0251.0376",
        "169.254.43518",
        "169.16689662",
        "169.254.169.254.",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[0:0:0:0:0:FFFF:a9fe:a9fe]",
        "[::a9fe:a9fe]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
        "[fd00:0ec2::254]",
        "[fd00:ec2:0:0:0:0:0:254]",
        "[FE80::1]",
        "0144.100.100.200",
        "1684301000",
    ],
)
def test_no_spelling_of_a_forbidden_address_may_be_asked_for(classifier: Classifier, address: str) -> None:
    for line in (
        f"curl 'http://{address}/'",
        f"curl -s 'http://{address}:80/latest'",
        f"ping -c 1 '{address.strip('[]')}'",
    ):
        assert classifier.classify("shell", {"command": line}).risk is Risk.FORBIDDEN, line


@pytest.mark.parametrize(
    "address",
    ["2130706433", "127.1", "0x7f.1", "0", "[::ffff:127.0.0.1]", "[::2]", "localhost.evil", "1.1", "08", "1.2.3.4.5"],
)
def test_other_numbers_are_no_known_host(classifier: Classifier, address: str) -> None:
    assert held(classifier, f"curl 'http://{address}/'")


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("10.1", ("10.0.0.1",)),
        ("0x7f000001", ("127.0.0.1",)),
        ("::ffff:10.0.0.1", ("::ffff:a00:1", "10.0.0.1")),
        ("fe80::1%eth0", ("fe80::1",)),
        ("localhost", ()),
        ("", ()),
        ("1.2.3.4 x", ()),
        ("::x", ()),
        ("999", ("0.0.3.231",)),
        ("1.2.3.999", ()),
        ("١٢٧.0.0.1", ()),
    ],
)
def test_how_addresses_are_spelled(host: str, found: tuple[str, ...]) -> None:
    named = spellings(host)
    assert len(named) == len(found)
    # The textual form of a mapped address differs between versions of the standard library.
    assert set(named) == set(found) or ("::ffff:10.0.0.1" in named and set(named) - {"::ffff:10.0.0.1"} <= set(found))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("\\.env$", ["*.env*"]),
        ("a|b", ["*a*", "*b*"]),
        (".*\\.pem", ["*.pem*"]),
        (".*", []),
        ("^id_[re]sa", ["*id_*sa*"]),
        ("x+y", ["*x*y*"]),
        ("ab?c", ["*a*c*"]),
        ("a{2}b", ["*b*"]),
        ("\\d+x", ["*x*"]),
        ("[]x]y", ["*y*"]),
        ("(a|b)c", ["*a*", "*b*", "*c*"]),
    ],
)
def test_the_globs_of_a_search_for_names(text: str, found: list[str]) -> None:
    assert globs.of_regex(text) == found


FED = '\n{}\nEOF\n)"'
HELD_SUBSTITUTIONS = [
    'git commit -m "$(cat <<EOF' + FED.format("feat $(rm -rf /)"),
    "git commit -m \"$(cat <<'EOF' ; rm -rf /" + FED.format("feat"),
    "git commit -m \"$(cat x <<'EOF'" + FED.format("feat"),
    "git commit -m \"$(cat - <<'EOF'" + FED.format("feat"),
    "git commit -m \"$(cat <<'EOF' | sh" + FED.format("rm x"),
    "git commit -m \"$(sh <<'EOF'" + FED.format("rm x"),
    "git commit -m \"$(cat <<'EOF' | cat" + FED.format("feat"),
    "git commit -m \"$(cat <<-'EOF'" + FED.format("feat"),
    "git commit -m \"$(cat > x <<'EOF'" + FED.format("feat"),
    "git commit -m \"$(cat <<'EOF' &" + FED.format("feat"),
    "git commit -m \"$(! cat <<'EOF'" + FED.format("feat"),
    "git commit -m \"$(X=1 cat <<'EOF'" + FED.format("feat"),
    "git commit -m \"$(/tmp/cat <<'EOF'" + FED.format("feat"),
    'git commit -m "$(cat <<EOF' + FED.format("feat"),
    'git commit -m "$(cat <<\\EOF' + FED.format("feat"),
    "git commit -m \"$(cat 3<<'EOF'" + FED.format("feat"),
    "git commit -m \"$(cat <<'A' <<'EOF'\nx\nA" + FED.format("feat"),
    "git commit -m \"$(cat <<'EOF'\nfeat\nEOF\nrm -rf /)\"",
    "git commit -m $(cat <<'EOF'\nfeat\nEOF\n)",
    "git commit -m \"`cat <<'EOF'\nfeat\nEOF\n`\"",
    "git commit -m \"$(cat <<'EOF'" + FED.format("feat") + "; rm -rf /",
    "git commit -m \"$(cat <<'EOF'" + FED.format("feat") + " $(rm -rf /)",
    "bash -c \"$(cat <<'EOF'" + FED.format("rm -rf /"),
    "git \"$(cat <<'EOF'" + FED.format("push"),
    "\"$(cat <<'EOF'" + FED.format("rm") + " -rf /",
    "awk \"$(cat <<'EOF'" + FED.format('BEGIN{system("id")}'),
    "psql -c \"$(cat <<'EOF'" + FED.format("drop table x;"),
    "cat \"$(cat <<'EOF'" + FED.format(".env"),
    "cat $(cat <<'EOF'\nREADME.md .env\nEOF\n)",
    "f=$(cat <<'EOF'\n.env\nEOF\n); cat $f",
    "f=$(cat <<'EOF'\n~/.ssh/id_rsa\nEOF\n); cat \"$HOME/$f\" .env",
    "c=$(cat <<'EOF'\nrm -rf /\nEOF\n); bash -c \"$c\"",
    "export LANG=$(cat <<'EOF'\nC\nEOF\n) PATH=/tmp; ls",
]


@pytest.mark.parametrize("line", HELD_SUBSTITUTIONS)
@pytest.mark.parametrize("profile", [GateProfile.OPS, GateProfile.CODING])
def test_other_here_documents_in_a_substitution_are_held(
    classifier: Classifier, line: str, profile: GateProfile
) -> None:
    assert held(classifier, line, profile)


MESSAGE = 'feat(cart): round (once)\n\nDon\'t `break` $HOME; "quoted" \\ and * too.'


@pytest.mark.parametrize("quote", ["'", '"'])
def test_a_quoted_here_document_is_the_text_that_cat_prints(classifier: Classifier, quote: str) -> None:
    line = f'git commit -m "$(cat <<{quote}EOF{quote}\n{MESSAGE}\n\nEOF\n)"'
    [_, commit] = READER.read(line)
    assert [word.text for word in commit.argv] == ["git", "commit", "-m", MESSAGE]
    assert not held(classifier, line, GateProfile.CODING)
    assert classifier.classify("shell", {"command": line}).risk is Risk.R1
    assert not held(
        classifier, f'm=$(cat <<{quote}EOF{quote}\n{MESSAGE}\nEOF\n); git commit -m "$m"', GateProfile.CODING
    )
    assert not held(classifier, f'bash -c "$(cat <<{quote}EOF{quote}\nls -la\nEOF\n)"')
    assert not held(classifier, f'cat "src/$(cat <<{quote}EOF{quote}\na.py\nEOF\n)"')


def test_standard_input_is_not_opened_for_output() -> None:
    for line in ("ls 0>&1", "ls 0> f", "ls 00>&2"):
        with pytest.raises(Unprovable):
            READER.read(line)
    READER.read("ls 2>&1 < f")


@pytest.mark.parametrize(
    ("line", "released"),
    [
        ("jq --arg a b . f", True),
        ("jq . --arg a b f", True),
        ("jq --arg a -f . f", True),
        ('jq --arg a "$(cat x)" . f', True),
        ("jq --arg a b --argjson c 1 . f", True),
        ("jq --slurpfile a b.json . f", True),
        ("jq --slurpfile a .env . f", False),
        ("jq --rawfile a ~/.ssh/id_rsa -n .", False),
        ("jq --arg a -n env f", False),
        ("jq --arg a b env f", False),
        ("jq --arg a env", True),
        ("jq --arg a $(cat x) . f", False),
        ("jq --arg a * env f", False),
        ("jq --arg a", False),
        ("jq --arg=a b . f", False),
        ('jq --arg "$(cat x)" b . f', False),
        ("jq --rawfile a * . f", False),
    ],
)
def test_flags_that_take_two_words(classifier: Classifier, line: str, released: bool) -> None:
    assert held(classifier, line) is not released


@pytest.mark.parametrize("line", ["-a=name+text", "--arg[=name+text]", "--arg, -a=name+text", "--arg=name+"])
def test_only_long_flags_take_two_words(line: str) -> None:
    with pytest.raises(BundleError):
        compile_flag(line)


@pytest.mark.parametrize(
    ("line", "coding"),
    [
        ("git checkout .", "release"),
        ("git checkout -- f", "release"),
        ("git checkout f", "release"),
        ("git restore f", "release"),
        ("git restore .", "release"),
        ("git checkout -f .", "hold"),
        ("git -C ../x checkout .", "hold"),
        ("cd ..; git checkout .", "hold"),
        ("git switch -f main", "hold"),
    ],
)
def test_what_discards_work_is_held_but_for_a_checkpoint(classifier: Classifier, line: str, coding: str) -> None:
    found = classifier.classify("shell", {"command": line})
    assert (found.risk.rank >= Risk.R2.rank, found.outcome) == (True, "hold")
    assert classifier.classify("shell", {"command": line}, GateProfile.CODING).outcome == coding


def test_a_new_branch_discards_nothing(classifier: Classifier) -> None:
    for line in ("git checkout -b x", "git checkout -b x main", "git switch main", "git checkout --detach HEAD~1"):
        assert classifier.classify("shell", {"command": line}).risk is Risk.R1


@pytest.mark.parametrize(
    "line",
    [
        "curl http://localhost/ https://example.com/",
        "curl https://example.com/ http://localhost/",
        "curl https://example.com/.env",
    ],
)
def test_the_farthest_address_decides(classifier: Classifier, line: str) -> None:
    assert classifier.classify("shell", {"command": line}).risk is Risk.R2


@pytest.mark.parametrize("line", ["psql -c *", 'psql -c "$(cat x)"', "psql -c s*", "sqlite3 a.db *"])
def test_statements_that_are_only_known_when_they_run_are_opaque(classifier: Classifier, line: str) -> None:
    assert classifier.classify("shell", {"command": line}).risk.rank >= Risk.R2.rank
