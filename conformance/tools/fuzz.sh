#!/bin/sh
# Runs every fuzz target of the module for a bounded time, each with one worker,
# as many at a time as there are processors.
#
#   usage: conformance/tools/fuzz.sh [TIME [MATCH]]
#
# TIME is how long each target is fuzzed, as go test takes it, 10s by default.
# MATCH is a regular expression: only "DIRECTORY TARGET" lines that it matches
# are run. FUZZ_JOBS sets how many run at a time. All targets are run, also if
# some find something, which makes the exit code 1: the inputs found lie below
# testdata/fuzz of their packages, to be kept with the fix.
set -eu

go=${GO:-go}

# one WORK TIME PACKAGE TARGET: fuzzes one target with the program built before.
# By default each input that is worth keeping may be made shorter for a minute,
# which leaves slow targets no time for others.
one() {
	work=$1 each=$2 package=$3 target=$4
	name=$(echo "$package" | tr -c 'A-Za-z0-9\n' _)
	cache=$(cat "$work/cache")/$("$go" list "$package")
	begin=$(date +%s)
	result=FAIL
	for _ in 1 2; do
		if (cd "$package" && exec "$work/$name.test" -test.run '^$' -test.fuzz "^$target\$" \
			-test.fuzztime "$each" -test.fuzzcachedir "$cache" -test.parallel 1 -test.fuzzminimizetime 200x) >"$work/$name.$target" 2>&1; then
			result=ok
			break
		fi
		cat "$work/$name.$target"
		# The end of the time may be reported as a failure of its own, without an
		# input (golang/go#75804, until Go 1.27): once more, then.
		if grep -q 'Failing input written' "$work/$name.$target" || ! grep -q 'context deadline exceeded' "$work/$name.$target"; then
			break
		fi
	done
	# The last progress line says how many inputs were tried.
	inputs=$(sed -nE 's/.*execs: ([0-9]+).*/\1/p' "$work/$name.$target" | tail -n 1)
	printf '%-5s %4ss %12s inputs  %s %s\n' "$result" "$(($(date +%s) - begin))" "${inputs:-0}" "$package" "$target" | tee -a "$work/summary"
}

if [ "${1:-}" = --one ]; then
	shift
	one "$@"
	exit 0
fi

cd "$(dirname "$0")/../.."
each=${1:-10s}
match=${2:-.}
jobs=${FUZZ_JOBS:-$(getconf _NPROCESSORS_ONLN)}

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

# One instrumented program a package, whatever the number of its targets.
echo "$("$go" env GOCACHE)/fuzz" >"$work/cache"
cut -d' ' -f1 "$work/targets" | uniq | while read -r package; do
	"$go" test -c -fuzz . -o "$work/$(echo "$package" | tr -c 'A-Za-z0-9\n' _).test" "$package"
done

: >"$work/summary"
xargs -P "$jobs" -L 1 "conformance/tools/fuzz.sh" --one "$work" "$each" <"$work/targets"
if grep -q '^FAIL' "$work/summary"; then
	echo "== found something:"
	grep '^FAIL' "$work/summary"
	exit 1
fi
echo "== $total targets, $each each, $jobs at a time: nothing found"
