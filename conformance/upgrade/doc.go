// Package upgrade starts the present program on stores that earlier ones have
// written, and reads, writes and repairs them: T-UPG of the reliability plan.
//
// A store is testdata/NAME.tar.gz, its whole state directory with the drives and
// the keyring, and what it held is testdata/NAME.json. They are never changed:
// each format that is released adds one, made by
//
//	RUCHE_BIN=... go test ./conformance/upgrade -run Corpus -corpus NAME -copies 3
//
// The keys in them are those of the corpus and open nothing else.
//
// RUCHE_BIN names the ruche program; without it the tests are skipped, or fail
// if RUCHE_REQUIRE is 1.
package upgrade
