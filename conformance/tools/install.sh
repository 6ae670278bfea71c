#!/bin/sh
# Installs the S3 client programs that are written in Go at pinned versions,
# for the tests of conformance/clients. They are built from source by the go
# command, so that nothing but Go is needed.
#
#   usage: conformance/tools/install.sh [DIRECTORY]
#
# DIRECTORY is where the binaries go; the default is .tools/bin of the
# repository, which is also where the tests look (RUCHE_TOOLS changes that). A
# program whose pinned version is there already is not built again, so a second
# run costs nothing. aws-cli, boto3 and s3cmd are Debian packages: awscli,
# python3-boto3, s3cmd.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
bin=${1:-${RUCHE_TOOLS:-$root/.tools/bin}}
mkdir -p "$bin"
bin=$(cd "$bin" && pwd)

# Of the machine's GOFLAGS only -p and -modcacherw would be of use here, while
# -mod=vendor, -tags and the like would break or change the builds.
GOFLAGS=
GOWORK=off
CGO_ENABLED=0
export GOFLAGS GOWORK CGO_ENABLED

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM

# present NAME MODULE VERSION: the binary was built from that version.
present() {
	[ -x "$bin/$1" ] || return 1
	go version -m "$bin/$1" 2>/dev/null |
		awk -v module="$2" -v version="$3" \
			'($1 == "mod" || $1 == "dep") && $2 == module && $3 == version { found = 1 } END { exit !found }'
}

# replace NAME: moves the new binary into place in one step, so that an
# interrupted run leaves no half of a program.
replace() {
	mv -f "$scratch/bin/$1" "$bin/$1"
	echo "$1: installed in $bin"
}

# direct NAME MODULE VERSION: for modules that "go install" accepts. The
# binary takes the last element of the module's path as its name.
direct() {
	if present "$1" "$2" "$3"; then
		echo "$1: $3 is there"
		return
	fi
	echo "$1: building $3"
	GOBIN=$scratch/bin go install -trimpath -buildvcs=false "$2@$3"
	replace "$1"
}

# required NAME MODULE VERSION PACKAGE: for modules whose go.mod has replace
# lines, which "go install module@version" refuses: they are built as a
# requirement of an empty module.
required() {
	if present "$1" "$2" "$3"; then
		echo "$1: $3 is there"
		return
	fi
	echo "$1: building $3"
	mkdir -p "$scratch/$1"
	(
		cd "$scratch/$1"
		go mod init scratch >/dev/null 2>&1
		go mod edit -require "$2@$3"
		# The first step writes go.sum, which -mod=mod allows.
		go build -mod=mod -trimpath -buildvcs=false -o "$scratch/bin/$1" "$4"
	)
	replace "$1"
}

direct rclone github.com/rclone/rclone v1.76.0
required restic github.com/restic/restic v0.18.1 github.com/restic/restic/cmd/restic
required kopia github.com/kopia/kopia v0.22.3 github.com/kopia/kopia
direct mc github.com/minio/mc v0.0.0-20250313080218-cf909e1063a9
