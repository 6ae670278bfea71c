// Package copies changes how many copies of the metadata a server keeps while
// clients write: it tells how long they had to wait when the server went from
// one copy to three and back, and how long a new copy took to get everything.
//
//	RUCHE_BIN           the ruche program; without it the tests are skipped, or
//	                    fail if RUCHE_REQUIRE is 1
//	RUCHE_COPY_OBJECTS  how many objects there are before copies are changed,
//	                    5,000 if not set
package copies
