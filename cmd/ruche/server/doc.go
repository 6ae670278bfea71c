// Package server is the process that "ruche serve" starts: it opens what is
// stored, puts the parts together, serves, and ends in order.
//
// # State directory
//
//	cluster.json       who we are: cluster, node and drive ids; how far the first start came
//	LOCK               held while a process serves from here
//	keyring            encryption keys (elsewhere with --keyring), mode 0600
//	root-credentials   access key and secret of root, mode 0600
//	metadata/          the only copy of the metadata, or one of several, encrypted
//	metadata.json      which copies of the metadata there are; not there with one
//	metadata.reached   how far the copy in metadata/ has come, which it must not fall behind
//	tls/               the generated certificate, if there is one
//	endpoints.json     where the last process really listened
//
// Copies on drives are in meta/ there, with meta.json and meta.reached beside
// them. Drives have metadata.reached, too, while there is one copy.
//
// Drives are never written to before it is certain that they belong here.
//
// # First start
//
// A first start writes cluster.json with all ids chosen and the mark
// "starting", then does these steps in order, and at the end replaces the mark
// by "ready":
//
//  1. keyring: the recovery code is shown, then the file is written
//  2. drives: each without a superblock is formatted under the id chosen for it
//  3. sealed copies of the keyring on the drives
//  4. root credentials
//  5. metadata: account, drive table, placement groups
//
// Every step looks whether it was done before, so a start after a crash in the
// middle goes on where the last one ended. Until the mark is "ready" nothing
// was served and nothing of a client is stored. Once it is "ready", what is
// missing is a loss and never made anew: a start refuses without its keyring
// or metadata, and a drive path without a superblock is an absent drive.
package server
