// Package faults does to the metadata of a server what operators and machines
// do to them: it takes copies away, puts older or foreign ones in their place,
// damages files, removes the last copy. Each must be refused or handled, with a
// message that names the cause and the command that helps, and nothing that was
// acknowledged may be lost or served wrongly.
//
// The tests work on plain directories with a server process; faults of devices
// are in package conformance/devices.
//
//	RUCHE_BIN  the ruche program; without it the tests are skipped, or fail if
//	           RUCHE_REQUIRE is 1
package faults
