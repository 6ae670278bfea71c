#!/bin/sh
# Runs every fuzz target of the module for a bounded time, one after the other.
#
#   usage: conformance/tools/fuzz.sh [TIME]
#
# TIME is what go test takes as -fuzztime for each target, 10s by default. The
# first target that finds something ends the run.
set -eu

cd "$(dirname "$0")/../.."
each=${1:-10s}

grep -rlE --include='*_test.go' --exclude-dir=.tools --exclude-dir=.cache '^func Fuzz[A-Za-z0-9_]*\(f \*testing\.F\)' . |
	sort |
	while read -r file; do
		sed -nE 's/^func (Fuzz[A-Za-z0-9_]*)\(f \*testing\.F\).*/\1/p' "$file" |
			while read -r target; do
				echo "== $(dirname "$file") $target"
				go test -run '^$' -fuzz "^$target\$" -fuzztime "$each" "$(dirname "$file")" </dev/null
			done
	done
