#!/bin/sh
# Runs every fuzz target of the module for a bounded time, one after the other.
#
#   usage: conformance/tools/fuzz.sh [TIME [MATCH]]
#
# TIME is what go test takes as -fuzztime for each target, 10s by default. MATCH
# is a regular expression: only "DIRECTORY TARGET" lines that it matches are run.
# The first target that finds something ends the run with an exit code of 1; the
# input it found lies below testdata/fuzz of its package, to be kept with the fix.
set -eu

cd "$(dirname "$0")/../.."
each=${1:-10s}
match=${2:-.}
go=${GO:-go}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# Every "func FuzzX(f *testing.F)", whatever the parameter is called.
grep -rE --include='*_test.go' --exclude-dir='.?*' --exclude-dir=testdata '^func Fuzz[A-Za-z0-9_]*\([a-z]+ \*testing\.F\)' . |
	sed -E 's|^(.*)/[^/]*_test\.go:func (Fuzz[A-Za-z0-9_]*)\(.*|\1 \2|' |
	sort -u | grep -E -- "$match" >"$work/targets" || true
total=$(wc -l <"$work/targets")
if [ "$total" -eq 0 ]; then
	echo "fuzz: no target matches $match" >&2
	exit 1
fi

summary() {
	echo
	echo "== $1"
	cat "$work/summary"
}

: >"$work/summary"
n=0
while read -r package target <&3; do
	n=$((n + 1))
	echo "== $n/$total $package $target"
	begin=$(date +%s)
	if "$go" test -run '^$' -fuzz "^$target\$" -fuzztime "$each" "$package" >"$work/out" 2>&1; then
		# The last progress line says how many inputs were tried.
		inputs=$(sed -nE 's/.*execs: ([0-9]+).*/\1/p' "$work/out" | tail -n 1)
		printf 'ok    %4ss %12s inputs  %s %s\n' "$(($(date +%s) - begin))" "${inputs:-0}" "$package" "$target" | tee -a "$work/summary"
		continue
	fi
	cat "$work/out"
	printf 'FAIL  %4ss %12s         %s %s\n' "$(($(date +%s) - begin))" "" "$package" "$target" >>"$work/summary"
	summary "$package $target found something; $((total - n)) targets were not run"
	exit 1
done 3<"$work/targets"
summary "$total targets, $each each, nothing found"
