// Package keeper writes manifests of what the metadata hold to drives, and
// keeps on drives what counts.
//
//	outbox of a group -> entries, a batch a bucket -> record on m+1 drives -> cursor
//	state of a group  -> entries -> records on drives that join
//	records on drives -> what counts, together -> a new record; the rest is freed
//	tables of the root -> one record on every drive
//
// Each metadata group has m+1 manifest drives, on distinct devices if there are
// enough: a row in the group. Whatever a commit changed lies in the group's
// outbox until manifests of it are durable on all of them; so a crash at any
// point costs nothing but a few manifests written twice, which is harmless: of
// one key the highest order counts.
//
// A drive that fails is replaced in the row at once by another, which gets
// every new manifest from then on and those of older versions by a scan of the
// state. Manifests that no longer count are freed by a pass over all drives, but
// only once what took their place is durable, and a tombstone only when a whole
// pass has found nothing that it kills.
//
// The package decides nothing about recovery; gateway/recovery reads what is
// written here, and gateway/manifest has the form.
package keeper
