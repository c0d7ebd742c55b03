#!/usr/bin/env bash
# Runs checks in the order given and stops at the first failure: scripts/check.sh lint types ... serve
# Ends with a table: result, seconds, and pytest's own closing line. Output of each check: .gatehouse/logs/check-NAME.log
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" PYTHONUNBUFFERED=1
mkdir -p .gatehouse/logs
colour=$([ -t 1 ] && echo yes || echo no)

# Tests that draw from a large space, break at every step, or read all that was ever graded: minutes.
samples=(
  tests/unit/audit/test_{export,sealer,semantics,witness}.py tests/unit/migrations/test_migrations.py tests/unit/bench/test_{bench_gate,soak}.py tests/unit/tenancy/test_{budget_rules,budgets}.py tests/unit/routing/test_{evaluate,learning_loop}.py
  tests/unit/rollout/test_{crashes,judge}.py tests/unit/canary/test_{driver,orders,random}.py
  tests/unit/gate/test_{bash_differential,computed,disguises,candidate_policy_judges,candidate_policy_load,candidate_policy_machine,corpora,crashes,desk_machine,laws,obfuscation,permits_races,permits_retries,policy_docs,python_reads,races,tenant_names}.py
)
without=()

check() {
  case $1 in
    lint) ruff format --check --quiet . && ruff check . ;;
    types) pyright ;;
    imports) lint-imports ;;
    unit)
      # Without the samples of long proofs: they are the check `samples`.
      for each in "${samples[@]}"; do without+=("--ignore=$each"); done
      # The harmony tests read the vocabulary; without it they skip and say so.
      gatehouse demo prepare >/dev/null || echo 'the demonstration models could not be prepared; some tests will skip'
      pytest "--color=$colour" -n auto --maxprocesses 4 --dist loadfile "${without[@]}" "tests/$1" # a file stays with one worker: its fixtures are costly
      ;;
    samples) pytest "--color=$colour" -n auto --maxprocesses 4 --dist loadfile "${samples[@]}" ;;
    api) pytest "--color=$colour" -n auto --maxprocesses 4 --dist worksteal "tests/$1" ;;
    proofs)
      # Samples of all of this are in `samples` and the unit tier: mutants of commands, bash as an oracle, races, crashes, fragmentations.
      GATEHOUSE_GATE_WHOLE=1 GATEHOUSE_FULL_RACES=1 GATEHOUSE_RACES=10000 GATEHOUSE_FRAGMENTATIONS=5000 \
        pytest "--color=$colour" -n auto --maxprocesses 4 --dist loadfile --timeout 14400 \
        tests/unit/gate/test_{obfuscation,bash_differential,laws,races,permits_races,crashes,desk_machine}.py \
        tests/unit/ingress/test_wire_proof.py tests/unit/tenancy/test_budget_rules.py tests/unit/rollout/test_crashes.py
      ;;
    manifests) pytest "--color=$colour" -n auto --maxprocesses 4 --dist worksteal "tests/$1" ;;
    serve | engines | hybrid | audit | tenants | observe | gpu | cluster | resilience | airgap) pytest "--color=$colour" -m "$1" ${CASES:+-k "$CASES"} "tests/$1" ;;
    drills) pytest "--color=$colour" -m "$1" tests/drills ;;
    conformance) pytest "--color=$colour" -m "$1" ${CASES:+-k "$CASES"} "tests/$1" ;;
    upstream) pytest "--color=$colour" "tests/$1" ;;
    *) echo "no such check: $1" >&2 && return 2 ;;
  esac
}

table=() passed=0 skipped=0 failed=0 result=0
count() { # sums one kind of pytest's closing line
  local found
  found=$(grep -oE "[0-9]+ $2" <<<"$1" | head -n 1 | cut -d' ' -f1) || true
  echo "${found:-0}"
}
for name in "$@"; do
  printf '\n=== %s\n' "$name"
  log=.gatehouse/logs/check-$name.log
  started=$SECONDS
  status=0
  check "$name" 2>&1 | tee "$log" || status=$?
  closing=
  case $name in
    unit | samples | api | manifests | serve | drills | engines | hybrid | audit | tenants | observe | proofs | gpu | cluster | resilience | airgap | upstream | conformance)
      closing=$(sed -E 's/\x1b\[[0-9;]*m//g' "$log" | grep -E '^=+ .* in [0-9.]+s' | tail -n 1 | sed -E 's/^=+ //; s/ =+$//') || true
      passed=$((passed + $(count "$closing" passed))) skipped=$((skipped + $(count "$closing" skipped)))
      failed=$((failed + $(count "$closing" failed) + $(count "$closing" error)))
      ;;
  esac
  table+=("$(printf '%-10s %-7s %5d s   %s' "$name" "$([ $status = 0 ] && echo ok || echo FAILED)" $((SECONDS - started)) "$closing")")
  if [ $status != 0 ]; then
    result=1
    break
  fi
done

printf '\n%s\n' '=== summary'
printf '%s\n' "${table[@]}"
printf '%-10s %-7s %5d s\n' total "$([ $result = 0 ] && echo ok || echo FAILED)" "$SECONDS"
if [ $((passed + failed + skipped)) -gt 0 ]; then printf 'tests: %d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"; fi
exit $result
