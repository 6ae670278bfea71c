// Package kill ends a server with SIGKILL at random moments while clients
// write, starts it again on the same data, and compares what it then holds
// with what it had acknowledged: nothing that was acknowledged may be lost or
// come back, and whatever was not answered may have happened or not, but only
// as a whole.
//
// A [Model] is what must be true. The test drives a server process, so that
// everything between the socket and the disk takes part. It kills the process,
// not the machine: what the kernel has got is there after the restart. Power
// cuts are simulated by the tests of package node and metadata/replica.
//
//	RUCHE_BIN                the ruche program; without it the test is skipped,
//	                         or fails if RUCHE_REQUIRE is 1
//	RUCHE_KILLS              how many times to kill, 50 if not set
//	RUCHE_METADATA_REPLICAS  copies of the metadata
//	RUCHE_SEED               seed of a run to be repeated; moments still differ
package kill
