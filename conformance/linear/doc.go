// Package linear asks whether a server looks to its S3 clients as if it carried
// out one call after the other, each at one moment between its start and its
// answer, while it is killed, stopped and started again all the time.
//
// A [Load] is clients that write, read, list, copy, complete and delete on few
// keys, with and without conditions, and note what they asked and what they
// were told. Keys are changed every few hundred calls, because the time to
// check a history grows fast with its length. In the end every key is read once
// more, so that what was lost late is missed, too. [Load.Check] then looks, key
// by key, for an order of the calls that explains all answers (porcupine).
//
// A call whose answer is not known, because the connection broke or the answer
// was 5xx, may have been carried out at any later time, or never. A copy from
// one key to another is two calls: a read of the one, a write of the other. A
// listing is a read of each key that it could have named.
//
// The test of this package drives a server process:
//
//	RUCHE_BIN                the ruche program; without it the test is skipped,
//	                         or fails if RUCHE_REQUIRE is 1
//	RUCHE_LIN_OPS            how many calls, 10,000 if not set
//	RUCHE_METADATA_REPLICAS  copies of the metadata
//	RUCHE_SEED               seed of a run to be repeated; moments still differ
package linear
